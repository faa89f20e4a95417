"""Paths of input images and scans, and of the meshes made from them."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from occvae.data.readers.voxel_files import ENDINGS as VOXEL_ENDINGS
from occvae.errors import UserError
from occvae.images.io import refuse_url
from occvae.observations.scans import ENDINGS

FORMATS = ("glb", "obj", "ply", "stl", "off")
"""Endings of the mesh files that can be written."""
# Suffixes of images in a folder. A file that is named itself may have any suffix.
_IMAGE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif .tga .heic "
    ".heif .hif .apng .jpe .dib .pcx .psd .qoi".split()
)
# Suffixes of images that are not read, to report them instead of ignoring them.
_UNREADABLE_SUFFIXES = frozenset(
    ".svg .svgz .psb .xcf .ai .eps .pdf .exr .hdr .jxl .jxr .dng .raw .arw .cr2 "
    ".cr3 .nef .nrw .orf .pef .raf .rw2 .srw".split()
)
# Images that `reconstruct_files` writes, possibly into the folder of the input images.
_OWN_ENDINGS = (".preview.png", ".turntable.gif", ".turntable.png")


def find_images(inputs: list[str | Path]) -> list[Path]:
    """Lists the given files and the images in the given folders.

    Given files are not checked here. The images of a folder are listed by name, without those in
    its subfolders. Hidden files, other kinds of files and output of `reconstruct_files` are left
    out. `left_out_images` lists the images among them.

    Args:
        inputs: Files and folders.

    Raises:
        UserError: A folder contains no images. An input is an address, or `-` for standard input.
    """

    def describe(folder: Path) -> str:
        left_out = left_out_images([folder])
        reason = f" of a format that is read ({list_names(left_out)})" if left_out else ""
        return f"no images{reason}"

    return _find_files(inputs, "images", _is_image, describe)


def find_scans(inputs: list[str | Path]) -> list[Path]:
    """Lists the given files and the point clouds in the given folders, like `find_images`.

    Args:
        inputs: Files and folders.

    Raises:
        UserError: A folder contains no point clouds. An input is an address, or `-`.
    """
    missing = f"no point clouds ({', '.join(ENDINGS)})"
    return _find_files(inputs, "scans", _is_scan, lambda folder: missing)


def find_grids(inputs: list[str | Path]) -> list[Path]:
    """Lists the given files and the files with voxel grids in the given folders.

    Args:
        inputs: Files and folders.

    Raises:
        UserError: A folder contains no voxel grids. An input is an address, or `-`.
    """
    missing = f"no voxel grids ({', '.join(VOXEL_ENDINGS)})"
    return _find_files(inputs, "grids", _is_grid, lambda folder: missing)


def find_inputs(inputs: list[str | Path]) -> list[Path]:
    """Lists the given files and the images, point clouds and voxel grids in the given folders.

    Args:
        inputs: Files and folders.

    Raises:
        UserError: A folder contains none of them. An input is an address, or `-`.
    """
    return _find_files(
        inputs,
        "images",
        lambda file: _is_image(file) or _is_scan(file) or _is_grid(file),
        lambda folder: "no images, point clouds or voxel grids",
    )


def _find_files(
    inputs: list[str | Path],
    kind: str,
    is_kind: Callable[[Path], bool],
    describe_missing: Callable[[Path], str],
) -> list[Path]:
    """Lists the given files, and the files of a kind in the given folders."""
    files = []
    for given in inputs:
        _refuse_stream(given, kind)
        path = Path(given)
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(file for file in path.iterdir() if is_kind(file))
        if not found:
            raise UserError(f"{path}: {describe_missing(path)} in this folder")
        files += found
    return files


def _refuse_stream(given: str | Path, kind: str) -> None:
    """Raises a UserError for standard input and for addresses."""
    if given == "-":
        raise UserError(
            f"-: {kind} are not read from standard input; save the {kind[:-1]} and give the file"
        )
    refuse_url(given)


def left_out_images(inputs: list[str | Path]) -> list[Path]:
    """Lists the files in the given folders that are images of formats that are not read.

    Args:
        inputs: Files and folders. Files are not listed.
    """
    folders = [Path(given) for given in inputs if Path(given).is_dir()]
    return [
        file
        for folder in folders
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in _UNREADABLE_SUFFIXES
        and not file.name.startswith(".")
        and file.is_file()
    ]


def list_names(files: list[Path]) -> str:
    """Returns the names of the first five files in one line."""
    return ", ".join(file.name for file in files[:5]) + ", ..." * (len(files) > 5)


def output_paths(
    images: Sequence[str | Path], output: str | Path | None = None, format: str | None = None
) -> list[Path]:
    """Chooses the path of each object's mesh, named after its first file.

    If images have the same name, the name of their folder is put before it. If that is not enough,
    a number is appended.

    Args:
        images: The first file of each object.
        output: A mesh file for one object, or a folder for any number of objects. None is the
            working directory.
        format: One of `FORMATS`. None selects the format of the file, or glb in a folder.

    Returns:
        One path per object, all different.

    Raises:
        UserError: The format is unknown or differs from that of the file, a file is given for
            several objects, or the name is empty.
    """
    if output is None:
        output = "."
    if not str(output):
        raise UserError("the name of the output is empty; give a file or a folder")
    path = Path(output)
    suffix = path.suffix.lower().lstrip(".")
    if format is not None and format not in FORMATS:
        raise UserError(f"unknown mesh format {format!r}; choose from {', '.join(FORMATS)}")
    if suffix in FORMATS and not path.is_dir():
        if format not in (None, suffix):
            raise UserError(f"{output}: is not a .{format} file; leave out one of the two formats")
        if len(images) > 1:
            raise UserError(
                f"{output}: {len(images)} images make {len(images)} meshes; give a folder"
            )
        return [path]
    if len(images) == 1 and suffix and format is None and not path.is_dir():
        raise UserError(f"{output}: unknown mesh format; choose from .{', .'.join(FORMATS)}")
    return [path / f"{name}.{format or 'glb'}" for name in _distinct_names(images)]


def _is_grid(file: Path) -> bool:
    suffix = file.suffix.lower()
    return suffix in VOXEL_ENDINGS and not file.name.startswith(".") and file.is_file()


def _is_scan(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()


def _is_image(file: Path) -> bool:
    name = file.name.lower()
    suitable = file.suffix.lower() in _IMAGE_SUFFIXES and not name.startswith(".")
    return suitable and not name.endswith(_OWN_ENDINGS) and file.is_file()


def _distinct_names(images: Sequence[str | Path]) -> list[str]:
    """A stem per image. All are different even if upper and lower case are the same."""
    paths = [Path(image) for image in images]
    counts = Counter(path.stem.lower() for path in paths)
    names, used = [], {stem for stem, count in counts.items() if count == 1}
    for path in paths:
        if counts[path.stem.lower()] == 1:
            names.append(path.stem)
            continue
        folder = path.absolute().parent.name
        stem = f"{folder}-{path.stem}" if folder else path.stem
        name, number = stem, 1
        while name.lower() in used:
            number += 1
            name = f"{stem}-{number}"
        used.add(name.lower())
        names.append(name)
    return names

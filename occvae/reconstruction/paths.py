"""Which images are meant, and where their meshes go."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from occvae.errors import UserError

FORMATS = ("glb", "obj", "ply", "stl", "off")
"""Endings of the mesh files that can be written."""
# Of what counts as an image in a folder; a file that is named may end in anything.
_IMAGE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif .tga".split()
)
# What reconstruct writes itself, maybe beside the images.
_OWN_ENDINGS = (".preview.png", ".turntable.gif", ".turntable.png")


def find_images(inputs: list[str | Path]) -> list[Path]:
    """The files themselves, and the images directly in each folder, by name.

    A file that is named need not exist or be an image: that is found out when it is read. In
    folders, hidden files, other kinds of files and what `reconstruct_files` wrote are left out.

    Raises:
        UserError: a folder without images.
    """
    images = []
    for path in map(Path, inputs):
        if not path.is_dir():
            images.append(path)
            continue
        found = sorted(file for file in path.iterdir() if _is_image(file))
        if not found:
            raise UserError(f"{path}: no images in this folder")
        images += found
    return images


def output_paths(
    images: Sequence[str | Path], output: str | Path, format: str | None = None
) -> list[Path]:
    """Where the mesh of each object goes, each named by its (first) image.

    Images of the same name get meshes of different names: that of their folder is put before it,
    and where that is not enough, a number behind it.

    Args:
        images: the first image of each object.
        output: the file itself for one object, a folder for one or several.
        format: of `FORMATS`; by default that of the file, and glb in a folder.

    Returns:
        A Path for each object, no two alike.

    Raises:
        UserError: an unknown format, two formats, one file for several objects, or no name.
    """
    if not str(output):
        raise UserError("the name of the output is empty; give a file or a folder")
    path = Path(output)
    suffix = path.suffix.lower().lstrip(".")
    if format is not None and format not in FORMATS:
        raise UserError(f"unknown mesh format {format!r}; choose from {', '.join(FORMATS)}")
    if suffix in FORMATS and not path.is_dir():
        if format not in (None, suffix):
            raise UserError(f"{output}: is no .{format} file; leave out one of the two formats")
        if len(images) > 1:
            raise UserError(
                f"{output}: {len(images)} images make {len(images)} meshes; give a folder"
            )
        return [path]
    if len(images) == 1 and suffix and format is None and not path.is_dir():
        raise UserError(f"{output}: unknown mesh format; choose from .{', .'.join(FORMATS)}")
    return [path / f"{name}.{format or 'glb'}" for name in _distinct_names(images)]


def _is_image(file: Path) -> bool:
    name = file.name.lower()
    suitable = file.suffix.lower() in _IMAGE_SUFFIXES and not name.startswith(".")
    return suitable and not name.endswith(_OWN_ENDINGS) and file.is_file()


def _distinct_names(images: Sequence[str | Path]) -> list[str]:
    """A stem for each image, distinct also where capitals make no difference."""
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

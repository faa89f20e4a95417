"""Which pictures are meant, and where their meshes go."""

import os
from collections import Counter
from pathlib import Path

from occvae.errors import UserError

FORMATS = ("glb", "obj", "ply", "stl", "off")
# Of what counts as a picture in a folder; a file that is named may end in anything.
_PICTURE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jfif .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif .tga".split()
)
# What reconstruct writes itself, maybe beside the pictures.
_OWN_ENDINGS = (".preview.png", ".turntable.gif", ".turntable.png")


def find_pictures(inputs: list[str | Path]) -> list[Path]:
    """The files themselves, and the pictures directly in each folder, by name.

    A file that is named need not exist or be a picture: that is found out when it is read. In
    folders, hidden files, other kinds of files and what `reconstruct_files` wrote are left out.

    Raises:
        UserError: a folder without pictures.
    """
    pictures = []
    for path in map(Path, inputs):
        if not path.is_dir():
            pictures.append(path)
            continue
        found = sorted(file for file in path.iterdir() if _is_picture(file))
        if not found:
            raise UserError(f"{path}: no pictures in this folder")
        pictures += found
    return pictures


def output_paths(images: list[str | Path], output: str | Path, format: str | None = None):
    """Where the mesh of each object goes, each named by its (first) picture.

    Pictures of the same name get meshes of different names: that of their folder is put before it,
    and where that is not enough, a number behind it.

    Args:
        images: the first picture of each object.
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
                f"{output}: {len(images)} pictures make {len(images)} meshes; give a folder"
            )
        return [path]
    if len(images) == 1 and suffix and format is None and not path.is_dir():
        raise UserError(f"{output}: unknown mesh format; choose from .{', .'.join(FORMATS)}")
    return [path / f"{name}.{format or 'glb'}" for name in _distinct_names(images)]


def check_writable(path: Path) -> None:
    """UserError unless a file can be made there, as far as can be told without making one."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{path}: cannot be written, {folder} is no folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path}: cannot be written, no permission to write in {folder}")


def _is_picture(file: Path) -> bool:
    name = file.name.lower()
    suitable = file.suffix.lower() in _PICTURE_SUFFIXES and not name.startswith(".")
    return suitable and not name.endswith(_OWN_ENDINGS) and file.is_file()


def _distinct_names(images: list[str | Path]) -> list[str]:
    """A stem for each picture, distinct also where capitals make no difference."""
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

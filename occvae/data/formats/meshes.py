"""Imports a folder of meshes, in any file format that `read_mesh` reads."""

import argparse
import hashlib
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from occvae.data.formats import Format
from occvae.data.manifest import OWN_SPLITS, SPLITS
from occvae.data.sample import Sample
from occvae.data.shape_arguments import POINTS, add_shape_arguments, shape_settings
from occvae.data.shapes import ShapeSettings, make_sample
from occvae.data.shards import file_sha256
from occvae.data.sources import Item, own_split, skip_reason
from occvae.errors import UserError
from occvae.system.verbosity import note

if TYPE_CHECKING:
    from occvae.geometry.mesh_io import UnitMesh

# Up to this many files are all read before they are divided, because each of them matters.
_FEW_FILES = 8
_CATEGORY = "object"
_REPEATED = " (again)"  # suffix of the id of a training shape that is repeated for validation
# Endings of meshes and archives that are not read, to report instead of ignoring them.
_UNREADABLE_ENDINGS = set(
    ".3ds .7z .abc .blend .bz2 .dwg .dxf .fbx .gz .iges .igs .ma .max .mb .rar .tar .tgz .usd "
    ".usda .usdc .usdz .vrml .vtk .wrl .x3d .xyz .xz .zip".split()
)


class MeshSource:
    """The meshes in a folder and its subfolders. The id of a shape is the path of its file.

    Symbolic links to folders are followed. Folders that cannot be listed and files whose names
    cannot be printed are skipped and reported.

    A folder named train, val or test, anywhere in the path, gives the split. The first folder with
    another name gives the category, which is "object" if there is none. One folder named train, val
    or test beside categories only, as in bus/, car/ and train/, is a category too, see
    `split_like_categories`. If no folder names a split,
    every eighth shape of a category is for validation. The same holds for the shapes in train if no
    folder is named val. If these rules give no validation shape, the last training shape becomes
    one. A single shape is used for both training and validation.

    Args:
        root: the folder, or one mesh file.
        shape_settings: what to make and store per shape.
        up: axis that points up, "y" or "z", for all files. "z" is usual in CAD, with the front
            towards -y. Such meshes are turned to this package's axes: +y up, front towards +z.

    Raises:
        UserError: there is no such folder, no mesh can be read, or no shape is for training.

    Attributes:
        split_like_categories: folders that are categories although they have the name of a split.
    """

    name = "meshes"
    splits = OWN_SPLITS

    def __init__(
        self,
        root: str | Path,
        shape_settings: ShapeSettings = ShapeSettings(),  # noqa: B008 - immutable
        up: str = "y",
    ):
        if up not in ("y", "z"):
            raise UserError(f"up must be 'y' or 'z', got {up!r}")
        self.up = up
        self.shape_settings = shape_settings
        self.skipped: dict[str, str] = {}
        self.root, self._files = _find_meshes(Path(root), self.skipped)
        self.split_like_categories = _split_like_categories(self._files)
        self.settings = {
            "meshes": [self.root.name, _digest(self.root, self._files)],
            "up": up,
            **shape_settings.to_dict(),
        }
        if len(self._files) <= _FEW_FILES:
            self._files = [file for file in self._files if self._can_be_read(file)]
            if not self._files:
                raise UserError(f"{root}: no mesh can be read: {'; '.join(self.skipped.values())}")
        self.items = self._divide_readable()
        if not any(item.split == "train" for item in self.items):
            raise UserError(f"{root}: no shapes for training; all are in folders named val or test")
        if all(item.split != "val" for item in self.items):
            only = next(item for item in self.items if item.split == "train")
            self.items.append(Item(only.id + _REPEATED, only.category, "val"))

    def sample(self, index: int) -> Sample:
        from occvae.geometry.mesh_occupancy import occupancy_of_mesh

        item = self.items[index]
        mesh = self._load(self.root / item.id.removesuffix(_REPEATED))
        solid = occupancy_of_mesh(mesh)
        sample = make_sample(
            item.id,
            item.category,
            item.split,
            solid,
            self.shape_settings,
            solid.voxelize,
            # Other meshes do not show which points are inside, so sheets draw the occupancies.
            keep_mesh=solid.method == "parity",
        )
        sample.location, sample.scale = mesh.location, mesh.scale
        sample.note = solid.verdict
        if item.id.endswith(_REPEATED):
            sample.note = (
                f"also used for validation, because there is no other shape; {solid.verdict}"
            )
        return sample

    def _load(self, path: Path) -> "UnitMesh":
        from occvae.geometry.mesh_io import normalize_mesh, read_mesh

        vertices, faces = read_mesh(path)
        if self.up == "z":
            vertices = vertices[:, [0, 2, 1]] * np.array([1.0, 1.0, -1.0])
        return normalize_mesh(vertices, faces)

    def _can_be_read(self, file: Path) -> bool:
        try:
            self._load(self.root / file)
            return True
        except UserError as error:
            self.skipped[file.as_posix()] = skip_reason(file.as_posix(), error)
            return False

    def _divide_readable(self) -> list[Item]:
        """Divides the files such that at least one validation shape can be read, if any is left."""
        while True:
            items = _divide(self._files, self.split_like_categories)
            held_out = [Path(item.id) for item in items if item.split == "val"]
            if not held_out or any(map(self._can_be_read, held_out)):
                return items
            self._files = [file for file in self._files if file not in held_out]


def _find_meshes(root: Path, skipped: dict[str, str]) -> tuple[Path, list[Path]]:
    """Finds the mesh files in a folder and its subfolders.

    Args:
        root: the folder, or one mesh file.
        skipped: receives the reason why each other file or folder is left out, by its name.

    Returns:
        The folder, and the sorted paths of its mesh files relative to it. For one mesh file, the
        folder that contains it.

    Raises:
        UserError: there is no such file or folder, or no mesh file in it.
    """
    if root.is_file():
        return root.resolve().parent, [Path(root.name)]
    root = root.resolve()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder or file")
    from occvae.geometry.mesh_io import mesh_endings

    endings = mesh_endings()
    files: list[Path] = []
    others: Counter[str] = Counter()
    for path in sorted(_walk(root, skipped)):
        ending = path.suffix.lower()
        if ending not in endings:
            others[ending] += 1
        elif path.is_file():
            files.append(path.relative_to(root))
        else:
            reason = "is not a regular file" if path.exists() else "is a broken link"
            skipped[path.relative_to(root).as_posix()] = reason
    _report_unreadable(others, skipped)
    if not files and "." in skipped:
        raise UserError(f"{root}: {skipped['.']}")
    if not files:
        found = ", ".join(f"{count} {ending}" for ending, count in others.most_common(5))
        raise UserError(
            f"{root}: no meshes in this folder or its subfolders (found {found or 'no files'}); "
            f"supported are {' '.join(sorted(endings))}"
        )
    return root, files


def _report_unreadable(others: Counter[str], skipped: dict[str, str]) -> None:
    from occvae.geometry.mesh_io import missing_packages

    missing = missing_packages()
    for ending in sorted(others.keys() & (_UNREADABLE_ENDINGS | missing.keys())):
        reason = f"{others[ending]} files of a format that is not read"
        if ending in missing:
            reason += f" without another package ({missing[ending]})"
        skipped[f"*{ending}"] = reason


def _walk(root: Path, skipped: dict[str, str]) -> Iterator[Path]:
    """Yields each file in a folder and its subfolders once, also if several links lead to it."""

    def skip(error: OSError) -> None:
        skipped[os.path.relpath(error.filename, root)] = f"cannot be listed ({error.strerror})"

    seen: set[Path] = set()
    for folder, folders, names in os.walk(root, onerror=skip, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:  # reached by a link, perhaps to a parent folder
            folders.clear()
            continue
        seen.add(real)
        folders.sort()  # so that the same one of several paths to a folder is always taken
        for name in names:
            path = Path(folder, name)
            relative = os.path.relpath(path, root)
            if not relative.isprintable():
                skipped[ascii(relative)] = "has a name that cannot be printed"
            else:
                yield path


def _digest(root: Path, files: list[Path]) -> str:
    """A hash of all files, so that a build never continues with another folder.

    It covers the content, because a changed file may keep its size.
    """

    def line(file: Path) -> str:
        try:
            return f"{file.as_posix()} {file_sha256(root / file)}\n"
        except OSError as error:
            return f"{file.as_posix()} {error.strerror}\n"

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing releases the GIL
        return hashlib.sha256("".join(pool.map(line, files)).encode()).hexdigest()


def _split_like_categories(files: list[Path]) -> set[Path]:
    """Finds folders that are categories although they have the name of a split.

    The siblings of such a folder all have other names. It is still a split if it holds a folder
    with the name of a sibling, as in chair/ and test/chair/, or if a folder above it is the
    category.
    """
    inside: dict[Path, set[str]] = defaultdict(set)  # names of the folders in each folder
    for file in files:
        for folder in list(file.parents)[:-1]:
            inside[folder.parent].add(folder.name)
    found: set[Path] = set()
    for parent in sorted(inside, key=lambda folder: len(folder.parts)):
        splits = inside[parent].intersection(SPLITS)
        siblings = inside[parent] - splits
        has_category = any(part not in SPLITS for part in parent.parts)
        if len(splits) != 1 or not siblings or has_category:
            continue
        folder = parent / splits.pop()
        if not siblings & inside.get(folder, set()) and not found.intersection(folder.parents):
            found.add(folder)
    return found


def _divide(files: list[Path], split_like_categories: set[Path]) -> list[Item]:
    """Makes the items. Categories alternate, so that each shard holds all of them."""
    named: dict[Path, str | None] = {}
    members: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        splits: list[str] = []
        others: list[str] = []
        for folder in list(file.parents)[-2::-1]:  # from the top
            is_split = folder.name in SPLITS and folder not in split_like_categories
            (splits if is_split else others).append(folder.name)
        named[file] = splits[0] if splits else None
        members[others[0] if others else _CATEGORY].append(file)
    if "val" not in named.values():
        named = {file: None if split == "train" else split for file, split in named.items()}
    order = []
    for number, category in enumerate(sorted(members)):
        # Starts at another number per category, so that small ones do not all go to one split.
        free = itertools.count(number)
        for rank, file in enumerate(members[category]):
            split = named[file] or own_split(next(free))
            order.append((rank, Item(file.as_posix(), category, split)))
    order.sort(key=lambda entry: entry[0])
    return _with_validation([item for _, item in order])


def _with_validation(items: list[Item]) -> list[Item]:
    """Moves the last training shape to validation if there is no validation shape."""
    training = [index for index, item in enumerate(items) if item.split == "train"]
    if len(training) > 1 and all(item.split != "val" for item in items):
        last = items[training[-1]]
        items[training[-1]] = Item(last.id, last.category, "val")
    return items


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="folder to search, with its subfolders; or one mesh file")
    parser.add_argument(
        "--up",
        default="y",
        choices=("y", "z"),
        help="axis of the meshes that points up (default y)",
    )
    add_shape_arguments(parser, near_points=POINTS, voxels="32,64,128")


def _make_source(options: argparse.Namespace) -> MeshSource:
    settings = shape_settings(options, training_surface=True)
    source = MeshSource(options.folder, settings, up=options.up)
    for folder in sorted(source.split_like_categories):
        note(
            f"{source.root / folder}: imported as a category, not as a split, because the folders "
            "beside it are categories; to make it a split, put their folders in it"
        )
    if Path(options.folder).resolve() == Path(options.destination).resolve():
        raise UserError(
            f"{options.destination}: is the folder to import; choose another destination"
        )
    return source


FORMAT = Format(
    help="a folder of meshes in one of the common formats",
    add_arguments=_add_arguments,
    make_source=_make_source,
)

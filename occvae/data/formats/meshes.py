"""A folder of meshes, of any kind that trimesh reads."""

import argparse
import hashlib
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from occvae.data.formats import Format
from occvae.data.manifest import OWN_SPLITS, SPLITS
from occvae.data.sample import Sample
from occvae.data.shape_arguments import POINTS, add_shape_arguments, shape_settings
from occvae.data.shapes import ShapeSettings, make_sample
from occvae.data.shards import file_sha256
from occvae.data.sources import Item, own_split, skip_reason
from occvae.errors import UserError
from occvae.geometry.mesh_io import (
    UnitMesh,
    mesh_endings,
    missing_packages,
    normalize_mesh,
    read_mesh,
)
from occvae.geometry.mesh_occupancy import occupancy_of_mesh

# Up to as many files, each is read before shapes are divided: every one counts, and they are few.
_FEW = 8
_CATEGORY = "object"
_AGAIN = " (again)"  # in the id of a training shape that is there for validation as well
# Kinds of meshes, and of what they are packed in, that trimesh does not read: to be told of.
_OTHER_KINDS = set(
    ".3ds .7z .abc .blend .bz2 .dwg .dxf .fbx .gz .iges .igs .ma .max .mb .rar .tar .tgz .usd "
    ".usda .usdc .usdz .vrml .vtk .wrl .x3d .xyz .xz .zip".split()
)


class MeshSource:
    """The meshes below a folder; their ids are the paths of their files in it.

    Links to folders are followed. What cannot be looked into, or has a name that is no text, is
    skipped by name.

    A folder named train, val or test says which split its files belong to, wherever it is in the
    path; the first other folder is the category ("object" if there is none). Of shapes without a
    named split every eighth of a category is held out for validation; so it is with those of train
    where no folder is named val. There is at least one file to train and one to validate with,
    which are the same if there is only one.

    Args:
        root: the folder, or one mesh file.
        shape_settings: what is stored of each shape.
        up: axis that points up. "z" (CAD habit, front towards -y) is turned to this package's y
            (front towards +z), for all files alike: few formats say which it is.
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
        self.settings = {
            "meshes": [self.root.name, _digest(self.root, self._files)],
            "up": up,
            **shape_settings.to_dict(),
        }
        if len(self._files) <= _FEW:
            self._files = [file for file in self._files if self._can_be_read(file)]
            if not self._files:
                raise UserError(f"no mesh could be read: {'; '.join(self.skipped.values())}")
        self.items = self._divide_readable()
        if not any(item.split == "train" for item in self.items):
            raise UserError(f"{root}: no shapes to train with: all are in folders of other splits")
        if all(item.split != "val" for item in self.items):
            only = next(item for item in self.items if item.split == "train")
            self.items.append(Item(only.id + _AGAIN, only.category, "val"))

    def sample(self, index: int) -> Sample:
        item = self.items[index]
        mesh = self._load(self.root / item.id.removesuffix(_AGAIN))
        solid = occupancy_of_mesh(mesh)
        sample = make_sample(
            item.id, item.category, item.split, solid, self.shape_settings, solid.voxelize
        )
        sample.location, sample.scale = mesh.location, mesh.scale
        sample.note = solid.verdict
        if item.id.endswith(_AGAIN):
            sample.note = f"there is no other shape to validate with; {solid.verdict}"
        return sample

    def _load(self, path: Path) -> UnitMesh:
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
        """Divides the files; again without those held out, should none of them be readable."""
        while True:
            items = _divide(self._files)
            held_out = [Path(item.id) for item in items if item.split == "val"]
            if not held_out or any(map(self._can_be_read, held_out)):
                return items
            self._files = [file for file in self._files if file not in held_out]


def _find_meshes(root: Path, skipped: dict[str, str]) -> tuple[Path, list[Path]]:
    """The folder, and the mesh files in it, sorted and relative to it."""
    if root.is_file():
        return root.resolve().parent, [Path(root.name)]
    root = root.resolve()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder or file")
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
            reason = "is no regular file" if path.exists() else "is a link to nowhere"
            skipped[path.relative_to(root).as_posix()] = reason
    _name_other_kinds(others, skipped)
    if not files and "." in skipped:
        raise UserError(f"{root}: {skipped['.']}")
    if not files:
        found = ", ".join(f"{count} {ending}" for ending, count in others.most_common(5))
        raise UserError(
            f"{root}: no meshes in it, nor in its folders (found {found or 'no files'}); read are "
            f"{' '.join(sorted(endings))}"
        )
    return root, files


def _name_other_kinds(others: Counter[str], skipped: dict[str, str]) -> None:
    missing = missing_packages()
    for ending in sorted(others.keys() & (_OTHER_KINDS | missing.keys())):
        reason = f"{others[ending]} files of a kind that trimesh does not read"
        if ending in missing:
            reason += f" here ({missing[ending]})"
        skipped[f"*{ending}"] = reason


def _walk(root: Path, skipped: dict[str, str]) -> Iterator[Path]:
    """The files below a folder, each once however links lead to it; pipes and devices as well."""

    def skip(error: OSError) -> None:
        skipped[os.path.relpath(error.filename, root)] = f"cannot be listed ({error.strerror})"

    seen: set[Path] = set()
    for folder, folders, names in os.walk(root, onerror=skip, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:  # by a link, perhaps to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders.sort()  # which of two ways to a folder names it must not depend on the disk
        for name in names:
            path = Path(folder, name)
            relative = os.path.relpath(path, root)
            if not relative.isprintable():
                skipped[ascii(relative)] = "has a name that cannot be printed"
            else:
                yield path


def _digest(root: Path, files: list[Path]) -> str:
    """Tells a folder from another of the same name, should a build be continued.

    By content, because a shape that is moved or mended may well keep its number of bytes.
    """

    def line(file: Path) -> str:
        try:
            return f"{file.as_posix()} {file_sha256(root / file)}\n"
        except OSError as error:
            return f"{file.as_posix()} {error.strerror}\n"

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves Python to the others
        return hashlib.sha256("".join(pool.map(line, files)).encode()).hexdigest()


def _divide(files: list[Path]) -> list[Item]:
    """Items whose categories alternate, so that every shard, and every prefix, is balanced."""
    named: dict[Path, str | None] = {}
    members: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        folders = file.parts[:-1]
        named[file] = next((folder for folder in folders if folder in SPLITS), None)
        others = [folder for folder in folders if folder not in SPLITS]
        members[others[0] if others else _CATEGORY].append(file)
    if "val" not in named.values():
        named = {file: None if split == "train" else split for file, split in named.items()}
    order = []
    for number, category in enumerate(sorted(members)):
        free = itertools.count(number)  # each category begins elsewhere: some may be small
        for rank, file in enumerate(members[category]):
            split = named[file] or own_split(next(free))
            order.append((rank, Item(file.as_posix(), category, split)))
    order.sort(key=lambda entry: entry[0])
    return _with_validation([item for _, item in order])


def _with_validation(items: list[Item]) -> list[Item]:
    """The same, the last training shape held out if there is none to validate with."""
    training = [index for index, item in enumerate(items) if item.split == "train"]
    if len(training) > 1 and all(item.split != "val" for item in items):
        last = items[training[-1]]
        items[training[-1]] = Item(last.id, last.category, "val")
    return items


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="searched with the folders in it; or one mesh file")
    parser.add_argument("--up", default="y", choices=("y", "z"), help="upward axis (default y)")
    add_shape_arguments(parser, near_points=POINTS, voxels="32,64,128")


def _make_source(options: argparse.Namespace) -> MeshSource:
    settings = shape_settings(options, training_surface=True)
    source = MeshSource(options.folder, settings, up=options.up)
    if Path(options.folder).resolve() == Path(options.destination).resolve():
        raise UserError(f"{options.destination}: is the folder to import; choose another")
    return source


FORMAT = Format(
    help="a folder of meshes, of any kind trimesh reads",
    add_arguments=_add_arguments,
    make_source=_make_source,
)

"""`dataset.json`: what a dataset holds, how it was made, and what was left out and why."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from occvae.data.sources import CONTINUES
from occvae.errors import UserError
from occvae.system.atomic_write import write_whole_text
from occvae.system.lock import try_lock, unlock

FORMAT_VERSION = 2
MANIFEST = "dataset.json"
SPLITS = ("train", "val", "test")
# Of shapes that no publication has divided.
OWN_SPLITS = "own"


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest says of one shard."""

    file: str
    split: str
    num_shapes: int
    num_bytes: int
    sha256: str

    def is_whole(self, root: Path) -> bool:
        """Whether the file is there, of the size that it should have."""
        path = root / self.file
        return path.is_file() and path.stat().st_size == self.num_bytes


@dataclass
class Manifest:
    """The settings of a build, its shards, and what was left out and why.

    Args:
        source: what the shapes came from: procedural, voxels, meshes, onet, pix2vox, pix3d.
        splits: who divided them: "own", or the publication. Published splits of the same shapes
            disagree, so figures and datasets of two of them must never meet.
        settings: of the build; one that continues must have the same.
        categories: of its shapes.
        layouts: what the shapes of each split have, see `Sample.layout`.
        shards: in the order that numbers the shapes.
        notes: what there is to say of shapes that were taken, by id.
        skipped: why others were not, by id or file.
        complete: whether the build came to its end.
    """

    source: str
    splits: str
    settings: dict[str, Any]
    categories: list[str]
    layouts: dict[str, dict[str, Any]] = field(default_factory=dict)
    shards: list[ShardEntry] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    format_version: int = FORMAT_VERSION

    def save(self, root: Path) -> None:
        text = json.dumps(asdict(self), indent=1) + "\n"
        write_whole_text(root / MANIFEST, text, CONTINUES)

    def digest(self) -> str:
        """The same of equal datasets only, wherever they lie."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, root: str | Path) -> "Manifest":
        path = Path(root) / MANIFEST
        if not path.is_file():
            raise UserError(
                f"{path}: no dataset here; make one with `occvae data build` or `import`"
            )
        try:
            content = json.loads(path.read_text())
            check_version(path, content["format_version"])
            content["shards"] = [ShardEntry(**entry) for entry in content["shards"]]
            manifest = cls(**content)
            _check_types(manifest)
            return manifest
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: not a dataset manifest ({error!r})") from None

    @classmethod
    def load_complete(cls, root: str | Path) -> "Manifest":
        """The same; refused where the build did not come to its end."""
        manifest = cls.load(root)
        if not manifest.complete:
            raise UserError(
                f"{root}: its build was interrupted; run the same `occvae data` command again"
            )
        return manifest

    def resume(self, root: Path) -> "Manifest":
        """The manifest to continue: that on disk less its lost shards, or this new one."""
        if not (root / MANIFEST).exists():
            return self
        manifest = Manifest.load(root)
        if changed := self._changes_since(manifest):
            raise UserError(
                f"{root}: holds a dataset built with other settings or from other files "
                f"({', '.join(changed)}); choose another folder"
            )
        manifest.shards = [entry for entry in manifest.shards if entry.is_whole(root)]
        manifest.complete = False
        return manifest

    def _changes_since(self, former: "Manifest") -> list[str]:
        """Names of the settings that differ; those of another source are not comparable."""
        if self.source != former.source:
            return [f"source {former.source}, now {self.source}"]
        names = {**former.settings, **self.settings}
        return [name for name in names if former.settings.get(name) != self.settings.get(name)]

    def count_shapes(self) -> dict[str, int]:
        """Shapes of each split that has any."""
        counts = dict.fromkeys(SPLITS, 0)
        for entry in self.shards:
            counts[entry.split] += entry.num_shapes
        return {split: count for split, count in counts.items() if count}


def _check_types(manifest: Manifest) -> None:
    """Raises TypeError where a field holds something else than its annotation says."""
    for record in (manifest, *manifest.shards):
        for name, kind in get_type_hints(type(record)).items():
            if not _is_of(kind, getattr(record, name)):
                raise TypeError(f"{name} is not {kind}")
    for entry in manifest.shards:
        if entry.split not in SPLITS or Path(entry.file).name != entry.file:
            raise TypeError(f"a shard {entry.file!r} of split {entry.split!r}")


def _is_of(kind: Any, value: object) -> bool:
    if kind is Any:
        return True
    outer, inner = get_origin(kind) or kind, get_args(kind)
    if not isinstance(value, outer):
        return False
    parts: Iterable[object] = ()
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, list):
        parts = value
    return not inner or all(_is_of(inner[-1], part) for part in parts)


@contextmanager
def sole_writer(root: Path) -> Iterator[None]:
    """Makes the folder of a dataset and keeps others from writing to it meanwhile.

    Raises:
        UserError: another process is writing to it.
    """
    root.mkdir(parents=True, exist_ok=True)
    if not try_lock(root):
        raise UserError(f"{root}: another command is writing to it")
    try:
        yield
    finally:
        unlock(root)


def check_version(path: Path, version: int) -> None:
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: written as format version {version}, this occvae reads version "
            f"{FORMAT_VERSION}; make the dataset again with `occvae data build` or `import`"
        )

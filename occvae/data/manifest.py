"""The manifest `dataset.json`: shards, settings of the build, and the skipped shapes."""

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
# `Manifest.splits` of shapes whose splits are not published.
OWN_SPLITS = "own"


@dataclass(frozen=True)
class ShardEntry:
    """The manifest's entry for one shard.

    Attributes:
        file: file name, without a folder.
        split: "train", "val" or "test".
        num_shapes: number of shapes.
        num_bytes: size of the file.
        sha256: SHA-256 of the file, in hexadecimal.
    """

    file: str
    split: str
    num_shapes: int
    num_bytes: int
    sha256: str

    def is_whole(self, root: Path) -> bool:
        """Whether the file exists and has the expected size."""
        path = root / self.file
        return path.is_file() and path.stat().st_size == self.num_bytes


@dataclass
class Manifest:
    """Content of `dataset.json`.

    Args:
        source: name of the format, such as "meshes". Merged datasets join several with "+".
        splits: where the division into splits comes from: "own", or the name of a publication.
            Published splits of the same shapes disagree, so datasets with different values are
            never merged, and a model is never evaluated on splits other than its own.
        settings: settings of the build. To continue a build, they must not change.
        categories: names of the categories.
        layouts: what the shapes of each split hold, see `Sample.layout`.
        shards: the shards. Their order numbers the shapes.
        notes: remarks about shapes in the dataset, by id.
        skipped: why shapes or files are not in the dataset, by id or file.
        complete: whether the build reached its end.
        format_version: version of the files on disk.
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
        """Writes `dataset.json` to the folder `root`."""
        text = json.dumps(asdict(self), indent=1) + "\n"
        write_whole_text(root / MANIFEST, text, CONTINUES)

    def digest(self) -> str:
        """A hash that is the same for equal datasets, in any folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def shards_digest(self) -> str:
        """A hash of the shards alone. It stays the same if remarks in the manifest change."""
        shards = [(entry.split, entry.sha256) for entry in self.shards]
        return hashlib.sha256(json.dumps(shards).encode()).hexdigest()

    @classmethod
    def load(cls, root: str | Path) -> "Manifest":
        """Reads `dataset.json` from the folder `root`.

        Raises:
            UserError: there is no manifest, it is not valid, or it has another format version.
        """
        path = Path(root) / MANIFEST
        if not path.is_file():
            raise UserError(
                f"{path}: no dataset here; make it with `occvae data build` or `occvae data import`"
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
        """Reads the manifest of a complete dataset.

        Raises:
            UserError: as for `load`, or the build was interrupted.
        """
        manifest = cls.load(root)
        if not manifest.complete:
            raise UserError(
                f"{root}: its build was interrupted; run the command that builds it again"
            )
        return manifest

    def resume(self, root: Path) -> "Manifest":
        """The manifest to continue with: the one on disk without lost shards, or this new one.

        Raises:
            UserError: the folder holds a dataset with other settings.
        """
        if not (root / MANIFEST).exists():
            return self
        manifest = Manifest.load(root)
        if changed := self.changes_since(manifest):
            raise UserError(
                f"{root}: holds a dataset built with other settings or from other files "
                f"({', '.join(changed)}); choose another folder"
            )
        manifest.shards = [entry for entry in manifest.shards if entry.is_whole(root)]
        manifest.complete = False
        return manifest

    def changes_since(self, former: "Manifest") -> list[str]:
        """Names of the settings that differ from those of `former`, to show to the user.

        If the sources differ, it is one entry with both sources, and no settings are compared.
        """
        if self.source != former.source:
            return [f"source {former.source}, now {self.source}"]
        names = {**former.settings, **self.settings}
        return [name for name in names if former.settings.get(name) != self.settings.get(name)]

    def count_shapes(self) -> dict[str, int]:
        """Number of shapes per split, without empty splits."""
        counts = dict.fromkeys(SPLITS, 0)
        for entry in self.shards:
            counts[entry.split] += entry.num_shapes
        return {split: count for split, count in counts.items() if count}


def _check_types(manifest: Manifest) -> None:
    """Raises TypeError if a field does not have the type of its annotation."""
    for record in (manifest, *manifest.shards):
        for name, kind in get_type_hints(type(record)).items():
            if not _is_of(kind, getattr(record, name)):
                raise TypeError(f"{name} is not {kind}")
    for entry in manifest.shards:
        if entry.split not in SPLITS or Path(entry.file).name != entry.file:
            raise TypeError(f"a shard has a wrong file {entry.file!r} or split {entry.split!r}")


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
    """Creates the folder of a dataset, and locks it against other writers within the context.

    Raises:
        UserError: another process is writing to it.
    """
    root.mkdir(parents=True, exist_ok=True)
    if not try_lock(root):
        raise UserError(f"{root}: another command is writing to it; wait until it ends")
    try:
        yield
    finally:
        unlock(root)


def check_version(path: Path, version: int) -> None:
    """Raises UserError if a file has another format version than this package reads."""
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: has format version {version}, this occvae reads version {FORMAT_VERSION}; "
            "make the dataset again with `occvae data build` or `occvae data import`"
        )

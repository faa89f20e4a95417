"""What a dataset is built from: a list of shapes, and a sample of each."""

from dataclasses import dataclass
from typing import Protocol

from occvae.data.sample import Sample


@dataclass(frozen=True)
class Item:
    """A shape that a source can load; its split is train, val or test."""

    id: str
    category: str
    split: str


class Source(Protocol):
    """A list of items and a way to load each; instances travel to worker processes.

    Attributes:
        name: of the format.
        splits: who divided the shapes, see `Manifest`.
        items: the shapes; ids differ.
        settings: JSON values: all that decides what the samples are.
        skipped: what could not become an item, and why.
    """

    name: str
    splits: str
    items: list[Item]
    settings: dict
    skipped: dict[str, str]

    def sample(self, index: int) -> Sample:
        """The shape of an item; raises `UserError` where it is unusable."""


def own_split(index: int) -> str:
    """Every eighth shape is held out where nobody has said which."""
    return "val" if index % 8 == 7 else "train"

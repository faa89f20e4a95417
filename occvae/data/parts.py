"""Parts of a source. Several machines build one part each, and `merge_datasets` joins them."""

from dataclasses import replace
from pathlib import Path

from occvae.data.manifest import SPLITS, Manifest
from occvae.data.sample import Sample
from occvae.data.sources import Item, Source
from occvae.errors import UserError

PART = "part"
"""Key of `Manifest.settings` with the number of the part, from 1, and the number of parts."""


class SourcePart:
    """One part of a source, as a source for `build_dataset`.

    A part is a contiguous range of the shapes, sorted by split. Sizes of parts differ by at most
    one shape. All parts, merged, hold the same samples in the same order as a build of the source
    without parts, whatever their number. Only the boundaries of shards differ.

    Args:
        source: the source, which must list the same shapes on every machine.
        number: number of the part, from 1.
        count: number of parts.

    Raises:
        UserError: there is no such part, or there are more parts than shapes.
    """

    def __init__(self, source: Source, number: int, count: int):
        total = len(source.items)
        if not 1 <= number <= count:
            raise UserError(f"part {number}/{count}: parts are numbered from 1 to {count}")
        if count > total:
            raise UserError(
                f"part {number}/{count}: there are only {total} shapes; use fewer parts"
            )
        by_split = sorted(range(total), key=lambda index: SPLITS.index(source.items[index].split))
        self._indices = by_split[total * (number - 1) // count : total * number // count]
        self._source = source
        self.name, self.splits = source.name, source.splits
        self.items: list[Item] = [source.items[index] for index in self._indices]
        self.settings = {**source.settings, PART: [number, count]}
        # Listed once, because a merge joins the lists of all parts.
        self.skipped = source.skipped if number == 1 else {}

    def sample(self, index: int) -> Sample:
        return self._source.sample(self._indices[index])


def arrange_parts(
    roots: list[Path], manifests: list[Manifest]
) -> tuple[list[Path], list[Manifest]]:
    """Sorts the parts of a source by number. Datasets that are not parts keep their order.

    Args:
        roots: folders of the datasets.
        manifests: manifest of each dataset.

    Raises:
        UserError: only some of the datasets are parts, they are parts of different sources, or a
            part is missing or given twice.
    """
    first = next((place for place, one in enumerate(manifests) if PART in one.settings), None)
    if first is None:
        return roots, manifests
    numbers: dict[int, Path] = {}
    problems = []
    for root, manifest in zip(roots, manifests, strict=True):
        _check_same_source(root, manifest, roots[first], manifests[first])
        number, count = manifest.settings[PART]
        if number in numbers:
            problems.append(f"part {number} is given twice ({numbers[number]}, {root})")
        numbers[number] = root
    if missing := [str(number) for number in range(1, count + 1) if number not in numbers]:
        problems.append(f"part {', '.join(missing)} of {count} is missing")
    if problems:
        raise UserError(f"{'; '.join(problems)}; give each part once")
    order = sorted(range(len(roots)), key=lambda place: manifests[place].settings[PART])
    return [roots[place] for place in order], [manifests[place] for place in order]


def _check_same_source(root: Path, manifest: Manifest, first: Path, expected: Manifest) -> None:
    number, count = expected.settings[PART]
    if PART not in manifest.settings:
        raise UserError(
            f"{root}: is not a part, but {first} is part {number} of {count}; merge all parts with "
            "each other first"
        )
    if manifest.settings[PART][1] != count:
        own_number, own_count = manifest.settings[PART]
        raise UserError(
            f"{root}: is part {own_number} of {own_count}, but {first} is part {number} of {count}"
        )
    if changed := without_part(manifest).changes_since(without_part(expected)):
        raise UserError(
            f"{root}: was built with other settings or from other files than {first} "
            f"({', '.join(changed)})"
        )


def without_part(manifest: Manifest) -> Manifest:
    """A copy of a manifest whose settings are those of the whole source."""
    settings = {name: value for name, value in manifest.settings.items() if name != PART}
    return replace(manifest, settings=settings)

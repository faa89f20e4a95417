"""`occvae data images`: writes images of shapes to files, to try `occvae reconstruct` on."""

import argparse
import io
from pathlib import Path

from occvae.cli.data.shared import positive

_LONGEST_NAME = 200  # bytes; file systems allow 255, and a suffix follows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="folder of the dataset")
    parser.add_argument("destination", help="folder for the images")
    parser.add_argument("--split", default="val", help="split of the shapes (default val)")
    parser.add_argument("--count", type=positive, default=8, help="number of shapes (default 8)")


def run(options: argparse.Namespace) -> None:
    """Writes the first view of shapes that are evenly spaced in a split."""
    import numpy as np

    from occvae.data.dataset import ShapeDataset

    dataset = ShapeDataset(options.root, options.split, image_size=1)
    folder = Path(options.destination)
    folder.mkdir(parents=True, exist_ok=True)
    count = min(options.count, len(dataset))
    written: set[str] = set()
    # Not a fixed stride, because one that is a multiple of the number of categories finds only one.
    for index in np.linspace(0, len(dataset) - 1, count).round().astype(int):
        shard, local = dataset.locate(index)
        name = _file_name(dataset.ids[index])
        while name in written:
            name += "_"
        written.add(name)
        content = shard.image(local, 0)
        (folder / f"{name}.{_suffix(content)}").write_bytes(content)
    print(f"{count} images in {folder}")


def _file_name(id: str) -> str:
    """A file name without suffix, made from an id that may contain any characters."""
    name = "".join(letter if letter.isprintable() and letter != "/" else "_" for letter in id)
    return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


def _suffix(content: bytes) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return str(image.format).lower()

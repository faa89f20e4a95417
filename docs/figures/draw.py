"""Draws the figures of the concept pages as SVG files beside this script.

    python docs/figures/draw.py [NAME ...] [--png FOLDER]

Needs matplotlib besides what the package needs. A figure is a function without arguments that
returns a matplotlib figure. The file has the function's name.
"""

import argparse
from pathlib import Path

import architectures
import computations
from canvas import save

FIGURES = (
    architectures.conditional_batch_norm,
    architectures.cbn_decoder,
    architectures.cnn_decoder,
    architectures.pix2vox_decoder,
    architectures.pix2vox_merger,
    architectures.pix2voxpp_merger,
    architectures.pix2vox_refiner,
    architectures.vae_head,
    computations.occupancy_field,
    computations.mise_rounds,
    computations.product_of_two,
    computations.position_similarity,
    computations.fourier_kernel,
    computations.one_decoder_many_shapes,
    computations.representations,
)


def main() -> None:
    by_name = {figure.__name__: figure for figure in FIGURES}
    parser = argparse.ArgumentParser(description="Draws the figures of the documentation.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all figures")
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="also write PNG files there")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - by_name.keys()):
        parser.error(f"unknown figure {unknown[0]!r}; choose from {', '.join(by_name)}")
    for name in options.names or by_name:
        save(by_name[name](), name, options.png)


if __name__ == "__main__":
    main()

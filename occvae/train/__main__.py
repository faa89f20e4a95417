"""Trains a model like `occvae train`: `torchrun -m occvae.train`, `deepspeed --module`."""

import sys

from occvae.cli.main import main

sys.exit(main(["train", *sys.argv[1:]]))

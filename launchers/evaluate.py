"""Evaluates a model: python launchers/evaluate.py --model runs/vitocc"""

import sys

from occvae.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))

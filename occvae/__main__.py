"""Runs the `occvae` command: `python -m occvae`."""

import sys

from occvae.cli.main import main

sys.exit(main())

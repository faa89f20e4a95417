"""`python -m occvae`: the `occvae` command."""

import sys

from occvae.cli.main import main

sys.exit(main())

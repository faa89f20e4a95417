"""The commands of `occvae`, one a file: `add_arguments(parser)` and `run(options)`."""

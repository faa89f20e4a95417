"""The commands of `occvae`. Each module defines `add_arguments(parser)` and `run(options)`."""

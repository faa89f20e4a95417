"""Turns images into meshes: python launchers/reconstruct.py photo.jpg -o chair.glb"""

import sys

from occvae.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["reconstruct", *sys.argv[1:]]))

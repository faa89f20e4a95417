"""Trains a model, like `occvae train`, under any launcher.

deepspeed launchers/train.py --arch vitocc
deepspeed --num_gpus 4 launchers/train.py --arch vitocc --data data/shapenet
torchrun --nproc-per-node 2 launchers/train.py --arch onet
python launchers/train.py --arch vitocc --preset cpu-small optim.steps=500
"""

import sys

from occvae.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))

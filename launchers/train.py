"""Trains a model; the same file under every launcher.

deepspeed launchers/train.py --arch vitocc
deepspeed --num_gpus 4 launchers/train.py --arch vitocc --data data/shapenet
torchrun --nproc-per-node 2 launchers/train.py --arch onet
python launchers/train.py --arch vitocc --preset cpu-small optim.steps=500
"""

import sys

from occvae.system.openmp import limit_spinning

if __name__ == "__main__":
    limit_spinning()  # must come before the import of torch
    from occvae.train.main import main

    sys.exit(main())

"""launchers/train.py that also notes which samples each step took: a line a micro step and rank.

python tests/train/recorded_training.py RECORDS [arguments of train.py]
"""

import json
import os
import sys
from pathlib import Path

from occvae.train import trainer
from occvae.train.main import main


def record(folder: Path) -> None:
    """Makes the trainer append to a file of this process in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / f"{os.getpid()}.jsonl").open("a", buffering=1)
    step, convert = trainer.Trainer._step, trainer.to_device

    def noting_step(self, batches, logger):
        def noting(batch, device):
            line = {"step": self.progress.step + 1, "indices": batch["index"].tolist()}
            file.write(json.dumps(line) + "\n")
            return convert(batch, device)

        trainer.to_device = noting
        step(self, batches, logger)
        trainer.to_device = convert

    trainer.Trainer._step = noting_step


if __name__ == "__main__":
    record(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))

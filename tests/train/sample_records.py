"""Records the samples of each step: one file per process, one line per micro step."""

import json
import os
from pathlib import Path


def record(folder: Path) -> None:
    """Makes the trainer of this process record its samples in a file in the folder."""
    from occvae.train import trainer

    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / f"{os.getpid()}.jsonl").open("a", buffering=1)
    step = trainer.Trainer._step

    def noting(self, micro_batches, logger):
        for batch in micro_batches:
            line = {"step": self.progress.step + 1, "indices": batch["index"].tolist()}
            file.write(json.dumps(line) + "\n")
        step(self, micro_batches, logger)

    trainer.Trainer._step = noting

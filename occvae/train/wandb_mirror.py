"""Sends the metrics of a run to Weights & Biases as well, from rank 0."""

import secrets
from pathlib import Path

from occvae.errors import UserError
from occvae.train import parallel
from occvae.train.config import TrainConfig


class WandbMirror:
    """A run in the Weights & Biases project `wandb_project`.

    wandb's environment variables (WANDB_MODE=offline, WANDB_ENTITY, ...) apply.

    Args:
        config: settings of the run.
        run: run folder. wandb_id.txt in it makes a resume continue the same Weights & Biases run.

    Raises:
        UserError: wandb is not installed, or it cannot start a run.
    """

    def __init__(self, config: TrainConfig, run: Path):
        try:
            import wandb
        except ImportError:
            raise UserError(
                "wandb_project: wandb is not installed; pip install wandb, or leave it out"
            ) from None
        identity = run / "wandb_id.txt"
        if not identity.exists():
            identity.write_text(secrets.token_hex(4) + "\n")
        try:
            self._run = wandb.init(
                project=config.wandb_project,
                id=identity.read_text().strip(),
                resume="allow",
                name=run.name,
                dir=str(run),
                config=config.to_dict(),
            )
        except Exception as error:  # wandb has many types for failed logins and networks
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"wandb_project: {reason}; WANDB_MODE=offline needs no login") from None

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def close(self) -> None:
        self._run.finish()


def open_wandb(config: TrainConfig, run: Path) -> WandbMirror | None:
    """Opens the mirror on rank 0 if the config names a project, otherwise returns None. Collective.

    Raises:
        UserError: wandb is not installed or cannot start a run. Every rank raises.
    """
    opened: list[WandbMirror] = []
    if config.wandb_project is not None:
        parallel.from_first_rank(lambda: opened.append(WandbMirror(config, run)))
    return opened[0] if opened else None

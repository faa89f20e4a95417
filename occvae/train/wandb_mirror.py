"""Metrics to Weights & Biases as well, where a run asks for it; from the first rank only."""

import secrets
from pathlib import Path

from occvae.errors import UserError
from occvae.train import parallel
from occvae.train.config import TrainConfig


class WandbMirror:
    """A run of the project `wandb_project`; what it is called and where it goes, wandb's own
    environment variables decide (WANDB_MODE=offline, WANDB_ENTITY, ...)."""

    def __init__(self, config: TrainConfig, run: Path):
        try:
            import wandb
        except ImportError:
            raise UserError(
                "wandb_project: wandb is not installed; pip install wandb, or leave it out"
            ) from None
        # The same run again after a resume.
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
        except Exception as error:  # no login, no network, a wrong name: all of wandb's own types
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"wandb_project: {reason}; WANDB_MODE=offline needs none") from None

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def close(self) -> None:
        self._run.finish()


def open_wandb(config: TrainConfig, run: Path) -> WandbMirror | None:
    """Collective: on the first rank, where the config names a project; otherwise None.

    Raises:
        UserError: on every rank, when wandb is missing or refuses.
    """
    opened: list[WandbMirror] = []
    if config.wandb_project is not None:
        parallel.from_first_rank(lambda: opened.append(WandbMirror(config, run)))
    return opened[0] if opened else None

"""What the command line says about a run, and the configuration that follows from it."""

import dataclasses
from dataclasses import dataclass

from occvae.errors import UserError
from occvae.models.registry import model_options
from occvae.train.config import TrainConfig, apply_overrides, split_override
from occvae.train.config_file import apply_config_file, read_config_file
from occvae.train.presets import make_preset


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of `occvae train`.

    Args:
        arch: architecture; None takes that of the file or the overrides, otherwise the default.
        preset: preset; None takes "default" with a GPU, otherwise "cpu-small".
        from_scratch: whether to take the variant of the preset that starts from random weights.
        config: YAML or JSON file with settings, see `config_file.py`.
        data: dataset folder, short for the override data.root.
        out: run folder; None takes the next free folder of runs/ARCH.
        resume: whether to continue a run.
        timeout: seconds to wait for a rank that does not answer.
        device: see `occvae.system.devices.local_device`.
        print_config: whether to print the settings instead of training.
        overrides: settings such as "optim.lr=3e-4".
    """

    arch: str | None = None
    preset: str | None = None
    from_scratch: bool = False
    config: str | None = None
    data: str | None = None
    out: str | None = None
    resume: bool = False
    timeout: float = 60.0
    device: str | None = None
    print_config: bool = False
    overrides: tuple[str, ...] = ()

    def check(self) -> None:
        """Checks the options that exclude each other, and that the architecture is known.

        Raises:
            UserError: an option cannot be used.
        """
        given = {
            "--preset": self.preset is not None,
            "--from-scratch": self.from_scratch,
            "--config": self.config is not None,
            "--print-config": self.print_config,
        }
        for name, is_given in given.items():
            if self.resume and is_given:
                raise UserError(
                    f"{name} cannot be combined with --resume; the run keeps its settings, which "
                    "its train_config.json lists"
                )
        if self.arch is not None:
            model_options(self.arch)  # raises for an unknown architecture

    def names_data(self) -> bool:
        """Whether --data or an override names the dataset.

        A file does not count, because `--print-config` writes the default folder into files.
        """
        names = [name for name, _ in map(split_override, self.overrides)]
        return self.data is not None or "data.root" in names


def configure(options: RunOptions) -> TrainConfig:
    """Returns the configuration of a new run: a preset, then the file, then the overrides.

    Raises:
        UserError: a setting is wrong, or the file cannot be read.
    """
    content = {} if options.config is None else read_config_file(options.config)
    arch = _chosen_arch(options, content.get("arch"))
    config = make_preset(options.preset, arch, from_scratch=options.from_scratch)
    if options.config is not None:
        config = apply_config_file(config, options.config, {**content, "arch": arch})
    return override(config, options)


def override(config: TrainConfig, options: RunOptions) -> TrainConfig:
    """Returns a config with the overrides and the dataset folder of the options."""
    config = apply_overrides(config, list(options.overrides))
    if options.data is None:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, root=options.data))


def _chosen_arch(options: RunOptions, in_file: object) -> str:
    """Returns the architecture, because its presets come before all other settings."""
    if in_file is not None and not isinstance(in_file, str):
        raise UserError(f"--config {options.config}: arch must be a name, got {in_file!r}")
    overridden = [value for name, value in map(split_override, options.overrides) if name == "arch"]
    return overridden[-1] if overridden else options.arch or in_file or TrainConfig().arch

"""occvae train: trains a model. Launchers start it as one process per rank."""

import argparse
import dataclasses
import math
import textwrap
from typing import TYPE_CHECKING

from occvae.cli.parser import CommandParser
from occvae.cli.shared import add_device

if TYPE_CHECKING:
    from occvae.train.settings import Setting

# Without importing torch, which the registries of architectures and presets need.
ARCHITECTURES = (
    "occvae",
    "onet",
    "onet-points",
    "onet-vae",
    "onet-voxels",
    "pix2vox-a",
    "pix2vox-f",
    "pix2vox-vae",
    "pix2voxpp-a",
    "pix2voxpp-f",
    "pix2voxpp-vae",
    "vitocc",
)
PRESETS = (
    "cpu-small",
    "cpu-small-from-scratch",
    "cpu-small-fusion",
    "default",
    "default-fusion",
    "h200-minutes",
    "h200-minutes-from-scratch",
)
_WIDTH = 90  # of the list of settings


def add_arguments(parser: CommandParser) -> None:
    from occvae.train.settings import list_settings

    settings = [entry for entry in list_settings() if entry.name not in ("data", "optim")]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _describe(settings)
    for setting in settings:
        option = setting.name.rpartition(".")[2].replace("_", "-")
        parser.instead[f"--{option}"] = f"{setting.name}=VALUE"
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="NAME=VALUE",
        help="settings, which replace those of the preset and the file; listed below",
    )
    parser.add_argument(
        "--arch", help=f"architecture: {', '.join(ARCHITECTURES)} (default: vitocc)"
    )
    parser.add_argument(
        "--preset",
        help=f"settings to start from: {', '.join(PRESETS)} (default: default with a GPU, "
        "cpu-small without)",
    )
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="start from random weights, not from the encoder of the built-in model",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML or JSON file with settings, applied to the preset"
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="dataset, short for data.root=FOLDER (default: data/procedural, which is built first "
        "if it does not exist)",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", help="run folder (default: the next free runs/ARCH)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run from its newest checkpoint"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print all settings as YAML and do not train"
    )
    add_device(parser)
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for a rank that does not answer (default: 60)",
    )
    # The deepspeed launcher passes it.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    from occvae.train.main import train
    from occvae.train.run_options import RunOptions

    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(RunOptions)}
    return train(RunOptions(**{**given, "overrides": tuple(options.overrides)}))


def _describe(settings: "list[Setting]") -> str:
    """Returns the part of the help that lists all settings."""
    lines = ["settings, as NAME=VALUE, where VALUE is JSON or text:"]
    for setting in settings:
        unit = f", {setting.unit}" if setting.unit else ""
        lines.append(f"  {setting.name}  ({setting.type}{unit}, default {setting.default})")
        lines += textwrap.wrap(
            setting.meaning, _WIDTH, initial_indent=6 * " ", subsequent_indent=6 * " "
        )
    lines += [
        "",
        "`occvae train --arch ARCH --print-config` lists the options in the section model.",
    ]
    lines += ["Example: occvae train --arch onet --data data/mine optim.lr=3e-4"]
    return "\n".join(lines)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 86_400:
        raise argparse.ArgumentTypeError(f"must be positive and less than a day, got {text}")
    return value

"""occvae completion: prints a script with which a shell completes commands and options."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from occvae.cli.train import ARCHITECTURES, PRESETS
from occvae.errors import UserError

_SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "Add one of these lines to the start-up file of your shell:\n"
        '  bash: eval "$(occvae completion bash)"\n'
        '  zsh:  eval "$(occvae completion zsh)"   (after compinit)\n'
        "  fish: occvae completion fish | source"
    )
    parser.add_argument("shell", choices=_SHELLS, help="the shell that runs the script")


def run(options: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError:
        raise UserError("completion needs shtab; run `pip install shtab`") from None
    words = _known_words()
    for parser in options.parser.all_parsers():
        for action in parser._actions:
            if action.dest in words:
                action.choices = words[action.dest]
            elif action.choices is None and action.nargs != 0 and action.type in (None, Path):
                action.complete = shtab.FILE
    print(shtab.complete(options.parser, options.shell))


def _known_words() -> dict[str, Sequence[str]]:
    """Returns words to offer for arguments that also accept other words, by their names."""
    from occvae.train.settings import list_settings

    settings = [f"{setting.name}=" for setting in list_settings() if setting.type != "section"]
    return {
        "arch": ARCHITECTURES,
        "preset": PRESETS,
        "device": ("cpu", "cuda"),
        "precision": ("fp32", "fp16", "bf16"),
        "overrides": settings,
    }

"""The argument parser of `occvae` and of each of its commands."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, Protocol


class Command(Protocol):
    """What the module of a command must define."""

    def add_arguments(self, parser: "CommandParser") -> None:
        """Adds the arguments of the command."""

    def run(self, options: argparse.Namespace) -> None:
        """Runs the command.

        Raises:
            UserError: the user made a mistake.
        """


class CommandParser(argparse.ArgumentParser):
    """A parser that does not accept abbreviated options.

    The parsers of its commands are of the same class.

    Args:
        add_arguments: adds the arguments when the parser first needs them. So only the command
            that is called pays for the imports of its arguments.
        **options: passed to `argparse.ArgumentParser`.
    """

    def __init__(
        self, *, add_arguments: "Callable[[CommandParser], None] | None" = None, **options: Any
    ):
        super().__init__(**options, allow_abbrev=False)
        self._add_arguments = add_arguments

    def add_commands(self, kind: str, commands: Mapping[str, tuple[Command, str]]) -> None:
        """Adds subcommands. The parsed options hold the chosen name under `kind`.

        Args:
            kind: what the help calls a subcommand, such as "action".
            commands: name of each command to its module and its one-line summary.
        """
        parsers = self.add_subparsers(dest=kind, required=True, metavar=kind)
        for name, (command, summary) in commands.items():
            parsers.add_parser(name, help=summary, add_arguments=command.add_arguments)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Rejects unknown arguments here, so that the error shows the usage of the command."""
        if self._add_arguments is not None:
            add_arguments, self._add_arguments = self._add_arguments, None
            add_arguments(self)
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

"""The parser of the `occvae` command and of each command in it."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, Protocol


class Command(Protocol):
    """What a module of a command defines."""

    def add_arguments(self, parser: "CommandParser") -> None:
        """Adds what the command takes."""

    def run(self, options: argparse.Namespace) -> None:
        """Runs the command; raises `UserError` for mistakes of the user."""


class CommandParser(argparse.ArgumentParser):
    """A parser that takes options as they are written, not their beginnings.

    Its commands are parsers like it.

    Args:
        add_arguments: adds the arguments when they are first needed. Only the command that is
            called pays for the imports that its arguments need.
        **options: of `argparse.ArgumentParser`.
    """

    def __init__(
        self, *, add_arguments: "Callable[[CommandParser], None] | None" = None, **options: Any
    ):
        super().__init__(**options, allow_abbrev=False)
        self._add_arguments = add_arguments

    def add_commands(self, kind: str, commands: Mapping[str, tuple[Command, str]]) -> None:
        """Adds commands of a kind. The option of that name tells which one is called.

        Args:
            kind: such as "action".
            commands: each by its name, with a summary for the list of commands.
        """
        parsers = self.add_subparsers(dest=kind, required=True, metavar=kind)
        for name, (command, summary) in commands.items():
            parsers.add_parser(name, help=summary, add_arguments=command.add_arguments)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuses unknown arguments here, so that a command reports them below its own usage."""
        if self._add_arguments is not None:
            add_arguments, self._add_arguments = self._add_arguments, None
            add_arguments(self)
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

"""The argument parser of `occvae` and of each of its commands."""

import argparse
import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, Protocol

from occvae.system.terminal import one_line
from occvae.system.verbosity import Verbosity


class Command(Protocol):
    """What the module of a command must define."""

    def add_arguments(self, parser: "CommandParser") -> None:
        """Adds the arguments of the command."""

    def run(self, options: argparse.Namespace) -> int | None:
        """Runs the command. Returns the exit status, where None is 0.

        Raises:
            UserError: the user made a mistake.
        """


class CommandParser(argparse.ArgumentParser):
    """A parser that accepts options anywhere and does not accept abbreviated options.

    The parsers of its commands are of the same class. A parser without commands also has the
    options `--verbose` and `--quiet`.

    Args:
        add_arguments: adds the arguments when the parser first needs them. So only the command
            that is called pays for the imports of its arguments.
        **options: passed to `argparse.ArgumentParser`.

    Attributes:
        instead: what to suggest for options that do not exist, by their names.
    """

    def __init__(
        self, *, add_arguments: "Callable[[CommandParser], None] | None" = None, **options: Any
    ):
        super().__init__(**options, allow_abbrev=False)
        self._add_arguments = add_arguments
        self._is_prepared = self._is_parsing = False
        self.instead: dict[str, str] = {}

    def add_commands(self, kind: str, commands: Mapping[str, tuple[Command, str]]) -> None:
        """Adds subcommands. The parsed options hold the chosen name under `kind`.

        Args:
            kind: what the help calls a subcommand, such as "action".
            commands: name of each command to its module and its one-line summary.
        """
        parsers = self.add_subparsers(dest=kind, metavar=kind)
        for name, (command, summary) in commands.items():
            description = f"{summary[0].upper()}{summary[1:]}."
            parsers.add_parser(
                name, help=summary, description=description, add_arguments=command.add_arguments
            )

    def prepare(self) -> None:
        """Adds all arguments of this parser, but not those of its commands."""
        if self._is_prepared:
            return
        self._is_prepared = True
        if self._add_arguments is not None:
            self._add_arguments(self)
        if self._subparsers is None:
            _add_verbosity(self)

    def all_parsers(self) -> "Iterator[CommandParser]":
        """Yields this parser and those of its commands, with all their arguments."""
        self.prepare()
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    yield from parser.all_parsers()

    def format_help(self) -> str:
        self.prepare()
        return super().format_help()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Rejects unknown arguments here, so that the error shows the usage of the command."""
        self.prepare()
        if self._is_parsing:  # called by parse_known_intermixed_args
            return super().parse_known_args(args, namespace)
        if self._subparsers is not None:
            options, unknown = super().parse_known_args(args, namespace)
            self._check_command(options)
        else:
            self._is_parsing = True
            try:
                options, unknown = self.parse_known_intermixed_args(args, namespace)
            finally:
                self._is_parsing = False
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._hint(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Prints an error in one line and exits with status 2."""
        more = "" if message.endswith("?") else f"; see `{self.prog} --help`"
        self.exit(2, f"error: {one_line(message)}{more}\n")

    def _check_command(self, options: argparse.Namespace) -> None:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and not vars(options)[action.dest]:
                self.error(f"give one of the {action.dest}s {', '.join(action.choices)}")

    def _hint(self, unknown: list[str]) -> str:
        """Returns a suggestion for the first unknown option that resembles an option."""
        known = {name: name for name in self._option_string_actions} | self.instead
        for word in unknown:
            near = difflib.get_close_matches(word.partition("=")[0], known, n=1, cutoff=0.7)
            if near and word.startswith("--"):
                return f"; did you mean {known[near[0]]}?"
        return ""


def _add_verbosity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("messages").add_mutually_exclusive_group()
    group.add_argument(
        "-v",
        "--verbose",
        dest="verbosity",
        action="store_const",
        const=Verbosity.VERBOSE,
        default=Verbosity.NORMAL,
        help="also print details: logs of libraries, and the traceback of an error",
    )
    group.add_argument(
        "-q",
        "--quiet",
        dest="verbosity",
        action="store_const",
        const=Verbosity.QUIET,
        help="print only results, warnings and errors: no notes, no progress bars",
    )

"""Runs the Python of every page, and parses its commands with the real parsers.

The Python blocks of a page run in their order, in one namespace and in one temporary folder. In
that folder `runs/vitocc` is a tiny model and `chair.jpg` an image. A block that cannot run there
has a comment `<!-- not run: reason -->` above it and is only compiled. Commands below such a
comment are not parsed.
"""

import argparse
import doctest
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from occvae.cli.main import create_parser
from occvae.errors import UserError
from occvae.models import save_pretrained
from occvae.train.run_options import RunOptions, configure
from tests.docs.pages import PAGES, ROOT, Block, page_name, read_blocks
from tests.fakes import octahedron_model
from tests.fresh_process import run_fresh

PYTHON = ("python", "py", "pycon")
COMMANDS = ("", "console", "sh", "bash", "shell")
PYTHON_PAGES = [page for page in PAGES if any(b.language in PYTHON for b in read_blocks(page))]


@pytest.fixture
def folder(tmp_path) -> Path:
    save_pretrained(octahedron_model(), tmp_path / "runs" / "vitocc")
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).rectangle((20, 12, 44, 52), fill="brown")
    image.save(tmp_path / "chair.jpg")
    return tmp_path


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=page_name)
def test_python_of_page_runs(page, folder):
    arguments = f"{str(page)!r}, {str(folder)!r}"
    run_fresh(f"from tests.docs.test_code_blocks import run_python; run_python({arguments})")


def run_python(page: str, folder: str) -> None:
    """Runs the Python blocks of a page in a folder."""
    os.chdir(folder)
    namespace = {"__name__": "__main__"}
    for block in read_blocks(Path(page)):
        if block.language not in PYTHON:
            continue
        source = "\n" * (block.line - 1) + block.code  # tracebacks then show lines of the page
        if ">>>" in block.code:
            examples = doctest.DocTestParser().get_doctest(source, namespace, page, page, 0)
            if block.is_run:
                doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(examples, clear_globs=False)
                namespace.update(examples.globs)
            continue
        code = compile(source, page, "exec")
        if block.is_run:
            exec(code, namespace)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_of_page_parse(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for block in read_blocks(page):
        if block.language in COMMANDS and block.is_run:
            for words in commands(block):
                try:
                    check(words)
                except (SystemExit, AssertionError, UserError) as error:
                    if error.args != (0,):  # of --help
                        place = f"{page_name(page)}:{block.line}"
                        pytest.fail(f"{place}: {shlex.join(words)}\n{error}", pytrace=False)


@pytest.mark.parametrize(
    "command",
    [
        "occvae data improt meshes a b",
        "occvae evaluate --modle runs/vitocc",
        "python launchers/train.py --arch vitnet",
        "python launchers/train.py optim.rate=3",
        "occvae train --preset huge",
        "torchrun --processes 2 launchers/train.py",
        "deepspeed --processes 2 launchers/train.py",
        "deepspeed launchers/trian.py",
        "FLAG=1 make tset",
        "cd .. && python benchmarks/iou_bench.py --repeat-it 9",
        "pip install -e '.[webcams]'",
    ],
)
def test_wrong_commands_are_found(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((SystemExit, AssertionError, UserError)):
        for words in commands(Block("sh", 1, command)):
            check(words)


def commands(block: Block) -> Iterator[list[str]]:
    """Yields the words of each command in a block, without prompt, redirections and comment."""
    for line in block.code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # output with an apostrophe
            continue
        while words:
            end = next((i for i, word in enumerate(words) if set(word) <= set("&|;<>")), len(words))
            command = words[:end]
            while command and re.match(r"[A-Z_]+=", command[0]):
                del command[0]
            if command:
                yield command
            words = words[end + 2 :] if words[end : end + 1] == [">"] else words[end + 1 :]


def check(words: list[str]) -> None:
    """Fails for a command of this project that its parser rejects. Other commands pass."""
    program, *arguments = words
    program = program.rpartition("/")[2]
    if program == "occvae":
        options = create_parser().parse_args(arguments)
        if options.command == "train":
            check_settings(options)
    elif program == "deepspeed":
        from deepspeed.launcher.runner import parse_args

        options = parse_args(arguments)
        check_script([options.user_script, *options.user_args])
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args(arguments)
        check_script([options.training_script, *options.training_script_args])
    elif program in ("python", "python3") and arguments and not arguments[0].startswith("-"):
        check_script(arguments)
    elif program in ("srun", "mpirun"):
        check(arguments[arguments.index("python") :])
    elif program == "sbatch":
        script = next(i for i, word in enumerate(arguments) if not word.startswith("-"))
        assert (ROOT / arguments[script]).is_file(), arguments
        check_script(["launchers/train.py", *arguments[script + 2 :]])
    elif program == "bash":
        assert (ROOT / arguments[0]).is_file(), f"{arguments[0]} does not exist"
    elif program == "make":
        targets = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in arguments if "=" not in word} <= set(targets[1].split()), words
    elif program == "pip":
        check_extras(arguments)


def check_settings(options: argparse.Namespace) -> None:
    """Checks the settings of a training, except those in a file."""
    run = RunOptions(arch=options.arch, preset=options.preset, overrides=tuple(options.overrides))
    run.check()
    if not options.resume:
        configure(run)


def check_script(words: list[str]) -> None:
    script, *arguments = words
    if script in ("launchers/train.py", "launchers/evaluate.py", "launchers/reconstruct.py"):
        check(["occvae", Path(script).stem, *arguments])
    elif script.startswith(("launchers/", "benchmarks/", "tests/")):
        assert (ROOT / script).is_file(), f"{script} does not exist"
        # Benchmarks share the options of timing.py.
        source = (ROOT / script).read_text() + (ROOT / "benchmarks/timing.py").read_text()
        for word in arguments:
            if word.startswith("--"):
                assert f'"{word.split("=")[0]}"' in source, f"{script} has no {word}"


def check_extras(arguments: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    known = {*project["project"]["optional-dependencies"], *project["dependency-groups"]}
    for name in re.findall(r"\[(.*?)\]", " ".join(arguments)):
        assert set(name.split(",")) <= known, f"pyproject.toml has no extra {name}"

"""Configuration of Sphinx: `make docs` builds these pages into build/docs."""

import os
import sys
from datetime import date
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

sys.path.insert(0, str(Path(__file__).parents[1]))

import occvae  # found through the line above
from occvae.cli.main import create_parser

project = "occvae"
author = "The occvae authors"
copyright = f"{date.today().year}, {author}"
version = release = occvae.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["**/.ipynb_checkpoints", "notebooks/build"]

# Single backticks in docstrings are code. A name that is documented here becomes a link.
default_role = "py:obj"

# Options of every autodoc directive. What a class inherits is documented with its base.
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False

# Markdown. Notebooks are committed with their outputs.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"occvae {release}"
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True


class CommandHelp(Directive):
    """Inserts a section with the help of each command: `{occvae-help}`."""

    def run(self):
        os.environ["COLUMNS"] = "90"
        parsers = list(create_parser().all_parsers())
        return [self._section(parser.prog, parser.format_help()) for parser in parsers]

    def _section(self, title, text):
        section = nodes.section(ids=[nodes.make_id(f"help of {title}")])
        section += nodes.title(title, title)
        section += nodes.literal_block(text, text, language="text")
        return section


def remove_signature(app, what, name, obj, options, lines):
    """Removes the docstring that a dataclass writes itself, because it repeats the signature."""
    if what == "class" and lines and lines[0].startswith(f"{obj.__name__}("):
        lines.clear()


def restore_colon(app, what, name, obj, options, lines):
    """Puts the text before a colon back in front of an attribute's docstring.

    Napoleon takes it for the attribute's type. Types are in the annotations.
    """
    if lines and lines[-1].startswith(":type: "):
        lines[0] = f"{lines.pop().removeprefix(':type: ')}: {lines[0]}"


def setup(app):
    app.add_directive("occvae-help", CommandHelp)
    app.connect("autodoc-process-docstring", remove_signature, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", restore_colon, priority=600)  # after napoleon

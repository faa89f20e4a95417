"""The HTML frame of a page: style, 3D viewer, and a policy that forbids every request."""

import base64
import hashlib
import io
import json
from functools import cache
from html import escape
from importlib.resources import files

import numpy as np
from PIL import Image

GENERATOR = '<meta name="generator" content="occvae">'


def document(title: str, body: str, *, viewer: str = "", reload: int = 0) -> str:
    """Returns a complete HTML page.

    Args:
        title: plain text.
        body: HTML.
        viewer: script elements with the data of the 3D viewer; empty if the page has no views.
        reload: seconds after which browsers load the page again; 0 for never.
    """
    style = _asset("style.css")
    script = _viewer_script() if viewer else ""
    # The hashes allow this style and script. Nothing else may be loaded, except inline images.
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; img-src data:; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{GENERATOR}
{f'<meta http-equiv="refresh" content="{reload}">' if reload else ""}
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
{viewer}
{f"<script>{script}</script>" if viewer else ""}
</body>
</html>
"""


def json_script(identifier: str, value: object) -> str:
    """Returns a script element with JSON, escaped so that no text in it ends the element."""
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(identifier)}">{text}</script>'


def pixels_element(pixels: np.ndarray, description: str, *, max_edge: int = 320) -> str:
    """Returns an <img> that contains (H, W, 3) uint8 pixels, reduced to at most `max_edge`."""
    image = Image.fromarray(pixels)
    image.thumbnail((max_edge, max_edge))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return image_element(file.getvalue(), description, image.size)


def image_element(png: bytes, description: str, size: tuple[int, int], *, kind: str = "") -> str:
    """Returns an <img> that contains a PNG file of a size (width, height), with a CSS class."""
    width, height = size
    mark = f'class="{kind}" ' if kind else ""
    return (
        f'<img {mark}src="data:image/png;base64,{base64.b64encode(png).decode()}" '
        f'width="{width}" height="{height}" alt="{escape(description)}">'
    )


def _viewer_script() -> str:
    license = _asset("vendor/three.LICENSE")
    three = f"/* This page contains three.js. Its license:\n{license}*/\n"
    return three + "".join(map(_asset, ("vendor/three.min.js", "mesh_data.js", "viewer.js")))


@cache
def _asset(name: str) -> str:
    return files("occvae.visualize.report").joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

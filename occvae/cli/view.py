"""occvae view: shows meshes, runs and reports in the browser, for this machine only."""

import argparse
import functools
import getpass
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from occvae.cli.shared import open_browser
from occvae.errors import UserError
from occvae.system.terminal import one_line

if TYPE_CHECKING:
    from occvae.visualize.report.run_page import NamedMesh


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", type=Path, help="mesh files, folders of them, run folders, reports"
    )
    parser.add_argument(
        "--port", type=int, default=0, help="port of the server (default: a free one)"
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address and open no browser"
    )


def run(options: argparse.Namespace) -> None:
    from occvae.visualize.report.server import create_server

    pages = _pages(options.paths)
    with create_server(pages, options.port) as server:
        port = server.server_address[1]
        url = f"http://127.0.0.1:{port}/"
        print(f"{url}   (Ctrl-C to stop)")
        print(f"from another machine: ssh -L {port}:127.0.0.1:{port} {_login()}", flush=True)
        if not options.no_browser:
            threading.Thread(target=open_browser, args=(url,), daemon=True).start()
        server.serve_forever()


def _pages(paths: list[Path]) -> dict[str, Callable[[], str]]:
    """Returns a function per address that makes its page.

    The page of a run is made again at each visit, because the run may still be training.
    """
    from occvae.visualize.report.run_page import index_page, is_run, run_page

    meshes: list[Path] = []
    found: list[tuple[str, Callable[[], str]]] = []
    for path in paths:
        if path.is_dir() and is_run(path):
            found.append((str(path), functools.partial(run_page, path)))
        elif path.is_dir():
            meshes += _meshes_in(path)
        elif not path.is_file():
            raise UserError(f"{path}: no such file")
        elif path.suffix.lower() in (".html", ".htm"):
            text = _read_report(path)
            found.append((str(path), functools.partial(str, text)))
        else:
            meshes.append(path)
    if meshes:
        views = _mesh_views(meshes)
        found.insert(0, (", ".join(path.name for path in meshes), lambda: views))
    if len(found) == 1:
        return {"/": found[0][1]}
    addresses = {f"/{index}": name for index, (name, _) in enumerate(found, 1)}
    index = index_page(addresses)
    return {"/": lambda: index} | dict(zip(addresses, (page for _, page in found), strict=True))


def _mesh_views(paths: list[Path]) -> str:
    """Returns a page of the meshes that can be read. The page and stderr list the others.

    Raises:
        UserError: no mesh can be read.
    """
    from occvae.visualize.report.run_page import mesh_page

    meshes, left_out = [], []
    for path in paths:
        try:
            meshes.append(_load_mesh(path))
        except UserError as error:
            left_out.append(str(error))
    if not meshes:
        raise UserError(left_out[0])
    for note in left_out:
        print(f"left out: {one_line(note)}", file=sys.stderr)
    return mesh_page(meshes, left_out)


def _load_mesh(path: Path) -> "NamedMesh":
    """Reads a mesh file and merges vertices at the same position, as .stl files have them."""
    import numpy as np
    import trimesh

    from occvae.geometry.mesh_io import read_mesh
    from occvae.geometry.vertex_colors import read_vertex_colors
    from occvae.visualize.report.run_page import NamedMesh

    vertices, faces = read_mesh(path)
    colors = read_vertex_colors(path, vertices)
    mesh = trimesh.Trimesh(vertices, faces, vertex_colors=colors)
    if not len(mesh.faces):
        raise UserError(f"{path}: no faces with finite vertices")
    if colors is not None:
        visual: Any = mesh.visual
        colors = np.asarray(visual.vertex_colors)[:, :3]
    return NamedMesh(path.name, (np.asarray(mesh.vertices), np.asarray(mesh.faces)), colors)


def _meshes_in(folder: Path) -> list[Path]:
    from occvae.reconstruction import FORMATS

    files = (path for path in folder.iterdir() if path.suffix[1:].lower() in FORMATS)
    meshes = sorted(path for path in files if path.is_file())
    if not meshes:
        raise UserError(f"{folder}: contains neither a run (metrics.jsonl) nor mesh files")
    return meshes


def _read_report(path: Path) -> str:
    from occvae.visualize.report.document import GENERATOR

    text = path.read_text("utf-8", errors="replace")
    if GENERATOR not in text[:4096]:
        raise UserError(f"{path}: not a report of 'occvae evaluate --html'")
    return text


def _login() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # in a container, the user may have no name
        return socket.gethostname()

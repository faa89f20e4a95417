"""Tables, views and files of a result."""

import re
import zipfile
from html import unescape

import numpy as np
import pytest
import trimesh
from PIL import Image

from occvae.app.results import cut_out_html, statistics, table, view, write_downloads
from occvae.app.service import CutOut, NamedShape, Outcome

HOSTILE = "<img src=x onerror=alert(1)>"


def outcome(*names: str, colors: bool = False) -> Outcome:
    shapes = []
    for name in names:
        mesh = trimesh.creation.box((1.0, 0.5, 0.25))
        if colors:
            mesh.visual.vertex_colors = np.tile([[200, 30, 30, 255]], (8, 1))
        shapes.append(NamedShape(name, mesh, "longest edge of the object"))
    seen = np.full((1, 8, 8, 3), 255, np.uint8)
    return Outcome(names[0], shapes, seen, ["background removed"])


def test_every_format_can_be_read_again(tmp_path):
    files = write_downloads(outcome("box", colors=True), tmp_path)
    assert [file.name for file in files] == [
        *("box.glb", "box-obj.zip", "box.ply", "box.stl", "box.off", "box.preview.png")
    ]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    for file in files[:-1]:
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                assert archive.namelist() == ["box.obj", "box.mtl"]
                archive.extractall(tmp_path)
            file = tmp_path / "box.obj"
        mesh = trimesh.load(file, force="mesh")
        assert mesh.is_watertight and mesh.volume == pytest.approx(0.125)
    assert Image.open(files[-1]).size == (5 * 224, 224)


def test_several_meshes_are_an_archive_per_format(tmp_path):
    files = write_downloads(outcome("a-1", "a-2")._replace(name="a"), tmp_path)
    assert [file.name for file in files][:2] == ["a-glb.zip", "a-obj.zip"]
    with zipfile.ZipFile(files[1]) as archive:
        assert archive.namelist() == ["a-1.obj", "a-1.mtl", "a-2.obj", "a-2.mtl"]


def test_statistics_are_numbers_and_a_table():
    values = statistics(outcome(HOSTILE))
    [row] = values["meshes"]
    assert row["faces"] == 12 and row["watertight"] is True and row["size"] == [1.0, 0.5, 0.25]
    html = table(values)
    assert "1 × 0.5 × 0.25" in html and ">yes<" in html and "background removed" in html
    assert HOSTILE not in html


def test_the_view_is_a_page_in_a_frame_that_runs_only_its_own_script():
    html = view(outcome(HOSTILE, colors=True))
    [page] = re.findall(r'srcdoc="([^"]*)"', html)
    assert 'sandbox="allow-scripts"' in html and html.count("<") == 2
    page = unescape(page)
    assert "default-src 'none'" in page and 'data-toggle="colors"' in page
    assert HOSTILE not in page and "<h1>" not in page


def test_cut_outs_are_shown_with_notes_and_warnings():
    pixels = np.zeros((8, 8, 3), np.uint8)
    html = cut_out_html(CutOut([HOSTILE], [pixels], ["note"], [HOSTILE]))
    assert html.count("data:image/png") == 1 and "note" in html
    assert HOSTILE not in html

"""Which files are images, and distinct paths for meshes."""

import os
from pathlib import Path

import pytest

from occvae.errors import UserError
from occvae.reconstruction.paths import (
    find_images,
    left_out_images,
    list_names,
    output_paths,
)
from occvae.system.atomic_write import check_writable


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "a.preview.png", "a.glb"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.turntable.gif").write_bytes(b"")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "c.webp").write_bytes(b"")
    (tmp_path / "album.jpg").mkdir()
    return tmp_path


def test_folders_give_the_images_directly_in_them(folder):
    assert find_images(["."]) == [Path("a.png"), Path("b.JPG")]
    found = find_images(["missing.png", folder / "deeper", "notes.txt"])
    assert found == [Path("missing.png"), folder / "deeper" / "c.webp", Path("notes.txt")]
    with pytest.raises(UserError, match="album.jpg: no images in this folder"):
        find_images(["a.png", "album.jpg"])


def test_images_that_are_not_read_are_listed(folder):
    assert left_out_images([".", "deeper", "a.png"]) == []
    for name in ("b.SVG", "a.cr2", ".c.svg", "deeper/d.xcf"):
        Path(name).write_bytes(b"")
    Path("photo.heic").write_bytes(b"")
    assert left_out_images([".", "a.png", "b.SVG"]) == [Path("a.cr2"), Path("b.SVG")]
    assert Path("photo.heic") in find_images(["."])
    Path("deeper/c.webp").unlink()
    message = r"deeper: no images of a format that is read \(d\.xcf\) in this folder"
    with pytest.raises(UserError, match=message):
        find_images(["deeper"])
    assert list_names([Path(f"x/{name}") for name in "abcdef"]) == "a, b, c, d, e, ..."


def test_formats_follow_from_names():
    assert output_paths(["a/b.jpg"], "out", "stl") == [Path("out/b.stl")]
    assert output_paths(["a/b.jpg"], "out.v2", "ply") == [Path("out.v2/b.ply")]
    assert output_paths(["a/b.jpg"], "out.ply", "ply") == [Path("out.ply")]
    with pytest.raises(UserError, match="out.glb: is not a .ply file"):
        output_paths(["a.jpg"], "out.glb", "ply")
    with pytest.raises(UserError, match="unknown mesh format 'fbx'; choose from glb, obj"):
        output_paths(["a.jpg"], "out", "fbx")


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["x/a.jpg", "y/a.png", "y/b.png"], ["x-a", "y-a", "b"]),
        (["x/a.jpg", "x/a.png"], ["x-a", "x-a-2"]),
        (["x/a.jpg", "x/A.png"], ["x-a", "x-A-2"]),  # the same file on many systems
        (["1/x/a.jpg", "2/x/a.jpg", "x-a.jpg"], ["x-a-2", "x-a-3", "x-a"]),
        (["x/a.jpg", "x/a.jpg"], ["x-a", "x-a-2"]),
        (["a.b.jpg", "a.c.jpg"], ["a.b", "a.c"]),
    ],
)
def test_names_are_distinct(images, names):
    assert output_paths(images, "out") == [Path(f"out/{name}.glb") for name in names]


def test_paths_that_cannot_be_written_are_refused(folder, monkeypatch):
    check_writable(folder / "new" / "deep" / "a.glb")
    assert not (folder / "new").exists()
    with pytest.raises(UserError, match=r"a.glb: cannot be written, .*notes.txt is not a folder"):
        check_writable(folder / "notes.txt" / "a.glb")
    with pytest.raises(UserError, match="deeper: is a folder"):
        check_writable(folder / "deeper")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    with pytest.raises(UserError, match="a.glb: cannot be written, no permission to write in"):
        check_writable(folder / "new" / "a.glb")

"""Turntables show one full turn around +y and are deterministic."""

import numpy as np
import pytest
import trimesh
from PIL import Image

from occvae.errors import UserError
from occvae.visualize.turntable import KINDS, turntable_frames, write_turntable


def box(center=(0.3, 0.0, 0.0)) -> trimesh.Trimesh:
    return trimesh.creation.box(
        (0.2, 0.3, 0.2), transform=trimesh.transformations.translation_matrix(center)
    )


def column(frame: np.ndarray) -> float:
    """Mean horizontal position of the object, from -1 (left) to 1 (right)."""
    weights = (frame < 250).any(axis=-1).sum(axis=0)
    return float(np.average(np.linspace(-1, 1, len(weights)), weights=weights))


def test_frames_make_one_turn_around_the_upright_axis():
    frames = turntable_frames(box(), 8, size=48)
    assert frames.shape == (8, 48, 48, 3) and frames.dtype == np.uint8
    found = [column(frame) for frame in frames]
    # The camera goes from +z to +x, so an object at +x moves from the right to the middle.
    signs = [1, 1, 0, -1, -1, -1, 0, 1]
    for position, sign in zip(found, signs, strict=True):
        assert (abs(position) < 0.02) if sign == 0 else (position * sign > 0.1), found
    np.testing.assert_array_equal(frames, turntable_frames(box(), 8, size=48))


def test_frames_show_the_colors_of_vertices():
    mesh = box()
    gray = turntable_frames(mesh, 1, size=48)[0]
    mesh.visual.vertex_colors = np.tile([[255, 0, 0, 255]], (len(mesh.vertices), 1))
    red = turntable_frames(mesh, 1, size=48)[0].astype(int)
    shown = (gray < 250).any(axis=-1)
    assert (red[shown][:, 0] > red[shown][:, 1] + 20).mean() > 0.9


def test_every_frame_shows_the_whole_cube():
    cube = trimesh.creation.box((1.0, 1.0, 1.0))
    for frame in turntable_frames(cube, 8, size=64):
        edges = np.concatenate([frame[0], frame[-1], frame[:, 0], frame[:, -1]])
        assert (edges == 255).all()


def test_a_gif_repeats_forever(tmp_path):
    write_turntable(tmp_path / "box.gif", box(), size=48)
    frames = turntable_frames(box(), KINDS["gif"], size=48)
    with Image.open(tmp_path / "box.gif") as film:
        assert film.n_frames == KINDS["gif"] and film.info["loop"] == 0
        for number in (0, 7, 35):
            film.seek(number)
            shown = np.asarray(film.convert("RGB")).astype(int)
            assert np.abs(shown - frames[number]).mean() < 2


def test_a_png_has_the_frames_side_by_side(tmp_path):
    write_turntable(tmp_path / "box.PNG", box(), size=32)
    strip = np.asarray(Image.open(tmp_path / "box.PNG"))
    frames = turntable_frames(box(), KINDS["png"], size=32)
    np.testing.assert_array_equal(strip, np.concatenate(frames, axis=1))


def test_other_suffixes_are_errors(tmp_path):
    with pytest.raises(UserError, match="a turntable must end in .gif or .png"):
        write_turntable(tmp_path / "box.mp4", box())
    assert not list(tmp_path.iterdir())

"""Stills from a fake camera behind a fake OpenCV."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from occvae.errors import UserError
from occvae.images.webcam import capture_still


class Camera:
    """Returns BGR frames that become brighter."""

    def __init__(self, opened: bool = True, frames: int = 100):
        self.opened, self.frames, self.taken, self.released = opened, frames, 0, False

    def isOpened(self) -> bool:
        return self.opened

    def read(self):
        self.taken += 1
        if self.taken > self.frames:
            return False, None
        return True, np.full((4, 6, 3), [3 * self.taken, 2, 1], np.uint8)

    def release(self) -> None:
        self.released = True


def install(monkeypatch, camera: Camera) -> list[int]:
    asked = []
    fake = SimpleNamespace(VideoCapture=lambda number: asked.append(number) or camera)
    monkeypatch.setitem(sys.modules, "cv2", fake)
    return asked


def test_a_still_is_rgb_and_well_exposed(monkeypatch):
    camera = Camera()
    asked = install(monkeypatch, camera)
    still = capture_still(2)
    assert asked == [2] and camera.released and camera.taken >= 10
    assert (still.mode, still.size) == ("RGB", (6, 4))
    assert still.getpixel((0, 0)) == (1, 2, 3 * camera.taken)


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (Camera(opened=False), "camera 0 cannot be opened"),
        (Camera(frames=3), "camera 0 returned no image"),
    ],
)
def test_cameras_without_image_give_one_line(monkeypatch, camera, message):
    install(monkeypatch, camera)
    with pytest.raises(UserError, match=message):
        capture_still()
    assert camera.released


def test_without_opencv_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="pip install opencv-python-headless"):
        capture_still()

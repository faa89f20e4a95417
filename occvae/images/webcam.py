"""Takes a still image with a camera of this machine, through OpenCV."""

import numpy as np
from PIL import Image

from occvae.errors import UserError

# Frames to read while the camera adjusts its exposure. The last one is kept.
_WARM_UP_FRAMES = 15


def capture_still(camera: int = 0) -> Image.Image:
    """Takes one RGB image.

    Args:
        camera: Number of the camera, from 0.

    Raises:
        UserError: OpenCV is not installed, the camera cannot be opened, or it returns no image.
    """
    try:
        import cv2
    except ImportError:
        raise UserError("a webcam needs OpenCV: pip install opencv-python-headless") from None
    device = cv2.VideoCapture(camera)
    try:
        if not device.isOpened():
            raise UserError(
                f"camera {camera} cannot be opened; check that it is connected and not in use"
            )
        for _ in range(_WARM_UP_FRAMES):
            received, frame = device.read()
            if not received:
                raise UserError(f"camera {camera} returned no image; check that it is not in use")
    finally:
        device.release()
    return Image.fromarray(np.ascontiguousarray(frame[:, :, ::-1]))  # from OpenCV's BGR

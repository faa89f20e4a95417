"""A still from a camera of this machine, through OpenCV where it is installed."""

import numpy as np
from PIL import Image

from occvae.errors import UserError

# Frames that a camera is given to find its exposure.
_WARM_UP_FRAMES = 15


def capture_still(camera: int = 0) -> Image.Image:
    """Takes one RGB image.

    Args:
        camera: number of the camera, from 0.

    Raises:
        UserError: OpenCV is not installed, there is no such camera, or it gives no image.
    """
    try:
        import cv2
    except ImportError:
        raise UserError("a webcam needs OpenCV: pip install opencv-python-headless") from None
    device = cv2.VideoCapture(camera)
    try:
        if not device.isOpened():
            raise UserError(f"camera {camera} cannot be opened: is it there, and free?")
        for _ in range(_WARM_UP_FRAMES):
            received, frame = device.read()
            if not received:
                raise UserError(f"camera {camera} gives no image")
    finally:
        device.release()
    return Image.fromarray(np.ascontiguousarray(frame[:, :, ::-1]))  # OpenCV has blue first

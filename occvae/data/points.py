"""Points as datasets store them, and the cube they live in."""

import numpy as np

# Queries live in the cube of half edge 0.55: the unit cube of the shapes with a padding of 0.1.
HALF_EXTENT = 0.55
# Published points are in half precision, which rounds those on the border by up to half a step.
HALF_PRECISION = 2.5e-4


def quantize_points(points: np.ndarray) -> np.ndarray:
    """(..., 3) coordinates in [-0.55, 0.55] to uint16: a step of 1.7e-5 everywhere in the cube.

    Half precision, the usual choice, has steps of 2.4e-4 at the border and piles points up on them.
    """
    scaled = (points / (2.0 * HALF_EXTENT) + 0.5) * 65536.0
    return np.clip(np.floor(scaled), 0, 65535).astype(np.uint16)


def dequantize_points(quantized: np.ndarray) -> np.ndarray:
    """The float32 center of each quantization step; inverse of `quantize_points`."""
    scale = np.float32(2.0 * HALF_EXTENT / 65536.0)
    return (quantized.astype(np.float32) - np.float32(32767.5)) * scale


def decode_points(stored: np.ndarray) -> np.ndarray:
    """Float32 coordinates of stored points: uint16 steps, or half precision as published."""
    return dequantize_points(stored) if stored.dtype == np.uint16 else stored.astype(np.float32)

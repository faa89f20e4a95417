"""Points as datasets store them, and the cube they live in."""

import numpy as np

from occvae.errors import UserError

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


def encode_points(name: str, points: np.ndarray) -> np.ndarray:
    """Converts points (N, 3) to what datasets store: half precision as it is, others quantized.

    Quantization moves a point by at most 0.9e-5 per axis, half precision by up to 12e-5.

    Raises:
        UserError: they are no points, or outside the cube; the message begins with `name`.
    """
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind != "f":
        raise UserError(f"{name} are {points.dtype} {points.shape}, expected floats (N, 3)")
    if not np.isfinite(points).all():
        raise UserError(f"{name} are not all finite")
    extent = np.abs(points).max(initial=0.0)
    if extent > HALF_EXTENT + HALF_PRECISION:
        raise UserError(f"{name} reach {extent:.3g}, outside the cube of half edge {HALF_EXTENT}")
    return points if points.dtype == np.float16 else quantize_points(points.astype(np.float64))

"""Encodes points for storage in datasets, and decodes them."""

import numpy as np

from occvae.errors import UserError

# Points are sampled in [-0.55, 0.55]^3: the unit cube of the shapes with a padding of 0.1.
HALF_EXTENT = 0.55
# Published points are float16, which moves points at the border by up to half a step.
HALF_PRECISION = 2.5e-4


def quantize_points(points: np.ndarray) -> np.ndarray:
    """Quantizes coordinates (..., 3) in [-0.55, 0.55] to uint16, with a step of 1.7e-5.

    The step is the same everywhere in the cube. The usual float16 has steps of up to 4.9e-4 near
    the border, so that many points get equal coordinates.
    """
    scaled = (points / (2.0 * HALF_EXTENT) + 0.5) * 65536.0
    return np.clip(np.floor(scaled), 0, 65535).astype(np.uint16)


def dequantize_points(quantized: np.ndarray) -> np.ndarray:
    """Returns the float32 center of each quantization step, the inverse of `quantize_points`."""
    scale = np.float32(2.0 * HALF_EXTENT / 65536.0)
    return (quantized.astype(np.float32) - np.float32(32767.5)) * scale


def decode_points(stored: np.ndarray) -> np.ndarray:
    """Returns float32 coordinates of stored points, either uint16 steps or float16."""
    return dequantize_points(stored) if stored.dtype == np.uint16 else stored.astype(np.float32)


def encode_points(name: str, points: np.ndarray) -> np.ndarray:
    """Encodes points (N, 3) for storage: float16 stays as it is, other floats are quantized.

    Quantization moves a point by at most 0.9e-5 per axis, float16 by up to 24e-5.

    Args:
        name: what the points are, for messages.
        points: (N, 3) floats.

    Returns:
        (N, 3) float16 or uint16.

    Raises:
        UserError: the array is not (N, 3) floats, has values that are not finite, or has points
            outside the cube.
    """
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind != "f":
        raise UserError(f"{name} are {points.dtype} {points.shape}; expected floats (N, 3)")
    if not np.isfinite(points).all():
        raise UserError(f"{name} are not all finite")
    extent = np.abs(points).max(initial=0.0)
    if extent > HALF_EXTENT + HALF_PRECISION:
        raise UserError(f"{name} reach {extent:.3g}; expected at most {HALF_EXTENT}")
    return points if points.dtype == np.float16 else quantize_points(points.astype(np.float64))

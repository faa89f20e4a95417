"""Checks that a refinement fits in free memory, before it takes the memory."""

from __future__ import annotations

import torch

from occvae.system.memory import FreeMemory

_POINT_BYTES = 12 + 8  # coordinates and shape index


class MiseMemory:
    """Raises MemoryError for a refinement, or its next round, that would not fit.

    Args:
        resolution: cells along an edge of the finest lattice.
        coarse_resolution: cells along an edge of the first lattice.
        num_shapes: shapes refined together.
        device: device of the state.
        working: temporary bytes per new point during a round, beside the point and its value.
    """

    def __init__(
        self,
        resolution: int,
        coarse_resolution: int,
        num_shapes: int,
        device: torch.device,
        working: int = 0,
    ):
        self._free = FreeMemory(device)
        self._first = num_shapes * (coarse_resolution + 1) ** 3
        self._working = working
        shapes = "1 shape" if num_shapes == 1 else f"{num_shapes} shapes"
        self._purpose = f"mise at resolution {resolution} from {coarse_resolution} of {shapes}"

    def require_state(self, size: int) -> None:
        """Raises MemoryError unless `size` bytes fit beside the first lattice and its values."""
        self._require(size + self._first * (_POINT_BYTES + 8 + self._working), kept=size)

    def require_round(self, known: int, new: int, value_bytes: int) -> None:
        """Raises MemoryError unless `new` points fit, and the result of all points beside them."""
        if new:
            each = _POINT_BYTES + value_bytes
            self._require(new * (each + self._working) + (known + new) * each)

    def _require(self, needed: int, kept: int = 0) -> None:
        advice = "choose a lower resolution or fewer shapes at a time"
        self._free.require(needed, self._purpose, advice, kept=kept)

"""The fully connected residual block of Occupancy Networks (Mescheder et al. 2019)."""

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two times ReLU and linear, added to the input, or to a linear map of it if widths differ.

    The second linear layer starts with zero weights.

    Args:
        in_size: Width of the input.
        out_size: Width of the output. The width between the layers is the smaller of both.

    Shapes: features (..., in_size) -> (..., out_size).
    """

    def __init__(self, in_size: int, out_size: int):
        super().__init__()
        inner = min(in_size, out_size)
        self.linear_0 = nn.Linear(in_size, inner)
        self.linear_1 = nn.Linear(inner, out_size)
        self.shortcut = None if in_size == out_size else nn.Linear(in_size, out_size, bias=False)
        nn.init.zeros_(self.linear_1.weight)

    def forward(self, features: Tensor) -> Tensor:
        update = self.linear_1(F.relu(self.linear_0(F.relu(features))))
        return update + (features if self.shortcut is None else self.shortcut(features))

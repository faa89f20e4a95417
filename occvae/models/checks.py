"""Checks of predictions before metrics or meshes are computed from them."""

from torch import Tensor

from occvae.errors import UserError


def check_probabilities(values: Tensor) -> Tensor:
    """Returns the values unchanged, and raises if any is NaN.

    NaN compares false with every threshold, so it would count as empty space without a message.

    Raises:
        UserError: A value is NaN.
    """
    count = int(values.isnan().sum())
    if count:
        raise UserError(
            f"the model predicts NaN at {count} of {values.numel()} places: its training has "
            "diverged, or its weights are damaged; use another checkpoint"
        )
    return values

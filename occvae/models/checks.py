"""What a model answered is looked at before it becomes a figure or a mesh."""

from torch import Tensor

from occvae.errors import UserError


def check_probabilities(values: Tensor) -> Tensor:
    """The values, unless there is NaN among them, which would silently count as empty space.

    Raises:
        UserError: there is.
    """
    count = int(values.isnan().sum())
    if count:
        raise UserError(
            f"the model predicts NaN at {count} of {values.numel()} places: its training has "
            "diverged, or its weights are damaged"
        )
    return values

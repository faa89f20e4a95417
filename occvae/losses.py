"""Training objectives."""

from torch import Tensor
from torch.nn import functional as F


def occupancy_loss(logits: Tensor, occupancies: Tensor, dice_weight: float) -> Tensor:
    """Binary cross-entropy, mean over points and shapes, plus a soft Dice term.

    Cross-entropy of thin shapes is dominated by empty space; Dice (Milletari et al. 2016) rewards
    overlap itself, which is what IoU measures.

    Args:
        logits: (B, N); occupancies: (B, N) 0 or 1, of any dtype.
        dice_weight: of the Dice term; 0 for cross-entropy alone.

    Returns:
        Scalar.
    """
    logits, occupancies = logits.float(), occupancies.float()
    loss = F.binary_cross_entropy_with_logits(logits, occupancies)
    if dice_weight > 0:
        probabilities = logits.sigmoid()
        overlap = 2.0 * (probabilities * occupancies).sum(dim=1)
        mass = probabilities.sum(dim=1) + occupancies.sum(dim=1)
        # A shape none of whose points is inside counts as matched by an empty prediction.
        loss = loss + dice_weight * (1.0 - (overlap + 1.0) / (mass + 1.0)).mean()
    return loss

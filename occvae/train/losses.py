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
        loss = loss + dice_weight * _soft_dice(logits.sigmoid(), occupancies)
    return loss


def voxel_loss(probabilities: Tensor, voxels: Tensor, dice_weight: float) -> Tensor:
    """Ten times the binary cross-entropy (Xie et al. 2019) and Dice term of a volume.

    Args:
        probabilities: (B, R, R, R) float32; voxels: (B, R, R, R) 0 or 1, of any dtype.
        dice_weight: of the Dice term beside the cross-entropy; 0 as published.

    Returns:
        Scalar.
    """
    probabilities, voxels = probabilities.flatten(1), voxels.flatten(1).float()
    loss = F.binary_cross_entropy(probabilities, voxels)
    if dice_weight > 0:
        loss = loss + dice_weight * _soft_dice(probabilities, voxels)
    return 10.0 * loss


def _soft_dice(probabilities: Tensor, occupancies: Tensor) -> Tensor:
    overlap = 2.0 * (probabilities * occupancies).sum(dim=1)
    mass = probabilities.sum(dim=1) + occupancies.sum(dim=1)
    # A shape none of whose points is inside counts as matched by an empty prediction.
    return (1.0 - (overlap + 1.0) / (mass + 1.0)).mean()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) of each dimension: (B, D) twice to (B, D), in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)


def kl_loss(kl: Tensor, free_nats: float) -> Tensor:
    """KL (B, D) of a batch as one term: the mean over the batch, the sum over the dimensions.

    A dimension whose mean is below `free_nats` nats costs that much and has no gradient, so that
    the first ones are for free (Kingma et al. 2016). The mean is that of a rank's micro step, so
    what is for free depends a little on how a batch is divided; without free nats nothing does.
    """
    return kl.mean(dim=0).clamp_min(free_nats).sum()

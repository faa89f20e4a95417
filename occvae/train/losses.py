"""Loss functions."""

from torch import Tensor
from torch.nn import functional as F


def occupancy_loss(logits: Tensor, occupancies: Tensor, dice_weight: float) -> Tensor:
    """Returns the mean binary cross-entropy over points and shapes, plus a soft Dice term.

    Empty space dominates the cross-entropy of thin shapes. The Dice term (Milletari et al. 2016)
    rewards overlap, which is what IoU measures.

    Args:
        logits: (B, N) logits of occupancy, of any floating dtype.
        occupancies: (B, N) occupancies 0 or 1, of any dtype.
        dice_weight: weight of the Dice term; 0 for cross-entropy alone.

    Returns:
        Scalar float32.
    """
    logits, occupancies = logits.float(), occupancies.float()
    loss = F.binary_cross_entropy_with_logits(logits, occupancies)
    if dice_weight > 0:
        loss = loss + dice_weight * _soft_dice(logits.sigmoid(), occupancies)
    return loss


def voxel_loss(probabilities: Tensor, voxels: Tensor, dice_weight: float) -> Tensor:
    """Returns ten times the sum of mean binary cross-entropy and soft Dice term of voxels.

    The factor ten is that of Pix2Vox (Xie et al. 2019).

    Args:
        probabilities: (B, R, R, R) float32 probabilities.
        voxels: (B, R, R, R) occupancies 0 or 1, of any dtype.
        dice_weight: weight of the Dice term relative to the cross-entropy. Pix2Vox uses 0.

    Returns:
        Scalar float32.
    """
    probabilities, voxels = probabilities.flatten(1), voxels.flatten(1).float()
    loss = F.binary_cross_entropy(probabilities, voxels)
    if dice_weight > 0:
        loss = loss + dice_weight * _soft_dice(probabilities, voxels)
    return 10.0 * loss


def _soft_dice(probabilities: Tensor, occupancies: Tensor) -> Tensor:
    overlap = 2.0 * (probabilities * occupancies).sum(dim=1)
    mass = probabilities.sum(dim=1) + occupancies.sum(dim=1)
    # The added ones make an empty prediction for an empty shape a perfect match.
    return (1.0 - (overlap + 1.0) / (mass + 1.0)).mean()


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Returns KL(N(mean, variance) || N(0, 1)) per latent dimension, in nats.

    Args:
        mean: (B, D) mean of the posterior.
        log_variance: (B, D) natural logarithm of its variance.

    Returns:
        (B, D) nats.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)


def kl_loss(kl: Tensor, free_nats: float) -> Tensor:
    """Returns the KL term of a batch: the mean over the batch, summed over the dimensions.

    A dimension whose mean KL is below `free_nats` contributes `free_nats` and has no gradient
    (Kingma et al. 2016). The mean covers the micro step of one rank. With free nats the result
    therefore depends slightly on how a batch is divided among ranks and micro steps.

    Args:
        kl: (B, D) nats, from `kl_divergence`.
        free_nats: lower bound of the mean KL per dimension, in nats; 0 for none.

    Returns:
        Scalar, in nats.
    """
    return kl.mean(dim=0).clamp_min(free_nats).sum()

"""The losses of the first and the third stage (VQGAN, Esser et al. 2021, section 3.1)."""

import sys
from contextlib import redirect_stdout
from typing import Literal, get_args

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from maskweave.errors import MaskweaveError

LPIPSNet = Literal["squeeze", "alex", "vgg"]

PERIOD = 8
"""Period in pixels of what ``lattice_loss`` sees, or a multiple of it."""


def pixel_loss(
    painted: Float[Tensor, "batch 3 height width"],
    images: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
    known_weight: float,
) -> Float[Tensor, ""]:
    """Mean over images of the absolute error in the hole and ``known_weight`` of that outside it.

    Each image counts alike, so that thin holes are not drowned by large ones.
    """
    error = (painted - images).abs().mean(1)
    return (mean_where(hole, error) + known_weight * mean_where(~hole, error)).mean()


def mean_where(
    where: Bool[Tensor, "batch height width"], values: Float[Tensor, "batch height width"]
) -> Float[Tensor, "batch"]:
    """Return the mean of each image's values in a region, 0 where that is empty."""
    return (values * where).sum((1, 2)) / where.sum((1, 2)).clamp(min=1)


def lattice_loss(
    painted: Float[Tensor, "batch 3 height width"],
    images: Float[Tensor, "batch 3 height width"],
    hole: Bool[Tensor, "batch height width"],
) -> Float[Tensor, ""]:
    """Return the mean square of what is painted too bright or too dark at each place of a patch.

    A decoder that enlarges patches may add the same faint pattern to all of them, which LPIPS may
    even reward. The mean error over all patches in the holes of a batch, pixel by pixel of a patch,
    is that pattern, as nothing else in photos comes again with it.
    """
    rows, columns = (side // PERIOD * PERIOD for side in hole.shape[1:])
    inside = hole[:, None, :rows, :columns].to(painted.dtype)
    error = (painted - images)[:, :, :rows, :columns] * inside
    error, inside = (
        x.unflatten(3, (-1, PERIOD)).unflatten(2, (-1, PERIOD)).sum((0, 2, 4))
        for x in (error, inside)
    )
    pattern = error / inside.clamp(min=1)  # (3, period, period)
    return (pattern - pattern.mean((1, 2), keepdim=True)).square().mean()


def hinge_discriminator_loss(
    real: Float[Tensor, "batch height width"],
    fake: Float[Tensor, "batch height width"],
    painted: Bool[Tensor, "batch height width"],
) -> Float[Tensor, ""]:
    """Hinge loss of the discriminator's logits (Lim and Ye 2017, eq. 1).

    Only those logits of the fake that look at ``painted`` pixels count: others see nothing but true
    ones (LaMa, Suvorov et al. 2022, section 2.3).
    """
    return 0.5 * (F.relu(1 - real).mean() + mean_where(painted, F.relu(1 + fake)).mean())


def adversarial_loss(
    fake: Float[Tensor, "batch height width"], painted: Bool[Tensor, "batch height width"]
) -> Float[Tensor, ""]:
    """Hinge loss of the painter (Lim and Ye 2017, eq. 2), of logits that look at painted pixels."""
    return -mean_where(painted, fake).mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor) -> Float[Tensor, ""]:
    """Weigh the adversarial loss so that both gradients at the last layer are as long (eq. 7).

    The arguments are the gradients of the two losses there.
    """
    return (reconstruction.norm() / (adversarial.norm() + 1e-4)).clamp(max=1e4)


def perceptual_loss(net: LPIPSNet = "squeeze") -> nn.Module:
    """Return LPIPS (Zhang et al. 2018) on SqueezeNet, AlexNet or VGG-16.

    It maps two batches of images in [-1, 1] to their distances, (batch, 1, 1, 1). It is the network
    within torchmetrics' metric, which itself would keep every distance that it ever returned.

    Raises
    ------
    MaskweaveError
        If the net is unknown, or its torchvision weights are neither in ``TORCH_HOME`` nor can be
        downloaded.
    """
    if net not in get_args(LPIPSNet):
        raise MaskweaveError(f"LPIPS is on {', '.join(get_args(LPIPSNet))}, got {net!r}")
    try:
        with redirect_stdout(sys.stderr):  # torch tells there that it downloads
            return LearnedPerceptualImagePatchSimilarity(net_type=net).net
    except (OSError, RuntimeError) as error:  # the latter of a broken download
        raise MaskweaveError(
            f"LPIPS needs torchvision's weights of {net}: connect once to download them, or set "
            f"TORCH_HOME to a folder that has them ({error})"
        ) from error

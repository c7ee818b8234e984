"""The patch discriminator (pix2pix, Isola et al. 2017, 3.2.2)."""

from torch import nn


class PatchDiscriminator(nn.Sequential):
    """Judge patches: (batch, 3, H, W) to logits (batch, 1, H / 4, W / 4), positive if real."""

    def __init__(self, width: int = 64) -> None:
        super().__init__(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

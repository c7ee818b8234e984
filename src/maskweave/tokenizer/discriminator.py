"""The patch discriminator (pix2pix, Isola et al. 2017, 3.2.2)."""

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Judges patches of images."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
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

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch rows columns"]:
        """Return logits, positive if real, a quarter as many as pixels in each direction."""
        return self.layers(images)[:, 0]

    def sees(self, hole: Bool[Tensor, "batch height width"]) -> Bool[Tensor, "batch rows columns"]:
        """Return which logits have a pixel of the hole in their receptive field.

        That is the one of the convolutions; the norms' statistics are of the whole image.
        """
        seen = hole[:, None].float()
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                size, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
                seen = F.max_pool2d(seen, size, stride, int(padding))
        return seen[:, 0] > 0

"""What every tokenizer can do; the rest of the package knows no more of one."""

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from maskweave.errors import MaskweaveError
from maskweave.guide import Guide, push_pull
from maskweave.holes import token_mask


class Tokenizer(nn.Module, ABC):
    """Turns images into grids of discrete tokens, and codes back into images.

    Images are float tensors in [-1, 1]; tokens are flattened row by row.
    """

    config: Any
    """A frozen dataclass with an ``architecture``, from which ``checkpoint`` makes it again."""
    sees_known: bool
    """Whether ``paint`` looks at the known pixels, so that a fill joins them without a seam."""
    patch_local: bool
    """Whether a token depends on the pixels of its own patch alone: tokens of whole known patches
    are then those of the clean image, whatever the hole."""
    guided: bool = False
    """Whether ``paint`` starts from a guide."""

    @property
    @abstractmethod
    def codes(self) -> Float[Tensor, "codebook_size codebook_dim"]:
        """The vector of every code, as ``paint`` takes them."""

    @abstractmethod
    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Int[Tensor, "batch length"]:
        """Return the tokens of images."""

    def encode_known(
        self,
        known: Float[Tensor, "batch 3 height width"],
        hole: Bool[Tensor, "batch height width"],
    ) -> Int[Tensor, "batch length"]:
        """Return the tokens of images without reading under the hole, where they mean nothing.

        Where a token sees more than its patch, the known pixels go on smoothly into the hole: their
        tokens are then more like those of whole images than beside a blank.
        """
        blank = known.masked_fill(hole[:, None], 0.0)
        return self.encode(blank if self.patch_local else push_pull(blank, hole))

    def token_mask(self, hole: Bool[Tensor, "batch height width"]) -> Bool[Tensor, "batch length"]:
        """Say which tokens are unknown of images with a hole, row by row."""
        return token_mask(hole, self.patch_size, self.dilation)

    @abstractmethod
    def paint(
        self,
        codes: Float[Tensor, "batch length codebook_dim"],
        known: Float[Tensor, "batch 3 height width"] | None = None,
        hole: Bool[Tensor, "batch height width"] | None = None,
        guide: Guide | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Paint images.

        Parameters
        ----------
        codes : Tensor
            The vector of every token of the images, those under the hole included. It need not be
            one of the codebook: a mean over codes is painted too.
        known : Tensor, optional
            Images, of which nothing under the hole is read.
        hole : Tensor, optional
            True in the hole. Without ``known`` and ``hole`` everything is hole: a plain decoder.
        guide : Guide, optional
            What a ``guided`` tokenizer starts from; by default the known pixels are interpolated.

        Returns
        -------
        Tensor
            Whole images; their known pixels are close to, not equal to, ``known``.

        Raises
        ------
        MaskweaveError
            If only one of ``known`` and ``hole`` is given.
        """

    def decode(
        self,
        tokens: Int[Tensor, "batch length"],
        known: Float[Tensor, "batch 3 height width"] | None = None,
        hole: Bool[Tensor, "batch height width"] | None = None,
        guide: Guide | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Paint the images of these tokens; the rest is as in ``paint``."""
        return self.paint(self.codes[tokens], known, hole, guide)

    def paint_narrow(
        self,
        known: Float[Tensor, "batch 3 height width"],
        hole: Bool[Tensor, "batch height width"],
        guide: Guide,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Paint images with ``narrow`` holes, of which tokens would tell little.

        As in ``paint``, but without codes, so that no transformer is needed.

        Raises
        ------
        MaskweaveError
            If the tokenizer has no decoder for them.
        """
        raise MaskweaveError(f"{type(self).__name__} has no decoder for narrow holes")

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.config.codebook_size

    @property
    def patch_size(self) -> int:
        """Side of a token's patch, in pixels."""
        return self.config.patch_size

    @property
    def narrow(self) -> int:
        """Width in pixels of the widest holes that ``paint_narrow`` is for; 0 if of none."""
        return getattr(self.config, "narrow", 0)

    @property
    def dilation(self) -> int:
        """How many tokens around a hole are masked with it, as they would see too much of it."""
        return getattr(self.config, "dilation", 0)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens; a tokenizer of other images than squares overrides it."""
        side = self.config.image_size // self.patch_size
        return side, side

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        rows, columns = self.grid
        return rows * self.patch_size, columns * self.patch_size

    @property
    def length(self) -> int:
        """Number of tokens of an image."""
        rows, columns = self.grid
        return rows * columns

    def on_grid(
        self, codes: Float[Tensor, "batch length codebook_dim"]
    ) -> Float[Tensor, "batch codebook_dim rows columns"]:
        """Return codes at their places, as convolutions take them."""
        return codes.transpose(1, 2).unflatten(2, self.grid)

"""aMUSEd (Patil et al. 2024): diffusers' U-ViT and transformers' CLIP as one transformer.

Both libraries come with the extra ``amused`` and are imported when such a model is made.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from maskweave.backends import needing
from maskweave.errors import MaskweaveError
from maskweave.foreign.base import ForeignConfig, ForeignTransformer, Size
from maskweave.settings import Blocks, settings

VOCABULARY, MERGES = "vocab.json", "merges.txt"
"""Files of a component beside its weights, by which text becomes numbers."""

START, END = "<|startoftext|>", "<|endoftext|>"
"""What CLIP's text encoder begins and ends a text with."""

AESTHETIC = 6.0
"""The score of a picture's looks that the project's own code asks for."""

Eps = Annotated[float, Field(gt=0, lt=1)]


@settings
class UViTConfig:
    """Sizes of ``diffusers.UVit2DModel``, by its names, but for those in ``AmusedConfig``."""

    use_bias: bool
    """Biases in its linear layers and convolutions."""
    cond_embed_dim: Size
    """Numbers of a text's summary."""
    micro_cond_encode_dim: Size
    """Numbers that each of five facts about a picture becomes."""
    micro_cond_embed_dim: Size
    """Numbers that all five become."""
    encoder_hidden_size: Size
    """Width of the text encoder."""
    vocab_size: Size
    """Rows of the embedding; the last is that of the mask."""
    in_channels: Size
    """Width of the embedding."""
    block_out_channels: Size
    """Width of the convolutions."""
    num_res_blocks: Blocks
    """Residual blocks before the transformer, and behind it."""
    downsample: bool
    """Halve the grid before the transformer."""
    upsample: bool
    """Double it behind."""
    block_num_heads: Size
    """Attention heads among the convolutions."""
    num_hidden_layers: Blocks
    """Blocks of the transformer."""
    num_attention_heads: Size
    """Attention heads of the transformer."""
    intermediate_size: Size
    """Hidden width of its feed-forward part."""
    layer_norm_eps: Eps
    """What keeps norms from dividing by 0."""
    ln_elementwise_affine: bool
    """Weights in its norms."""


@settings
class TextConfig:
    """Sizes of ``transformers.CLIPTextModelWithProjection``, by its names."""

    vocab_size: Size
    """Rows of the embedding."""
    hidden_size: Size
    """Width."""
    intermediate_size: Size
    """Hidden width of the feed-forward part."""
    projection_dim: Size
    """Numbers of a text's summary."""
    num_hidden_layers: Blocks
    """Number of blocks."""
    num_attention_heads: Size
    """Attention heads."""
    max_position_embeddings: Size
    """Tokens of a text, to which it is cut or filled up."""
    hidden_act: Literal["quick_gelu", "gelu"]
    """Activation."""
    layer_norm_eps: Eps
    """What keeps norms from dividing by 0."""
    eos_token_id: int
    """The token of whose place the summary is made; 2 stands for the largest."""


@settings
class AmusedConfig(ForeignConfig):
    """Sizes of both networks."""

    pixels: tuple[Size, Size]
    """Width and height of its pictures, which it is told."""
    unet: UViTConfig
    """Sizes of what predicts tokens."""
    text: TextConfig
    """Sizes of what reads a prompt."""
    pad_token: str = END
    """What short texts are filled up with."""
    architecture: Literal["amused_transformer"] = "amused_transformer"
    """Tells components apart on disk."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        unet, text = self.unet, self.text
        fitting = {
            "cond_embed_dim is projection_dim": unet.cond_embed_dim == text.projection_dim,
            "encoder_hidden_size is hidden_size": unet.encoder_hidden_size == text.hidden_size,
            "micro_cond_embed_dim is 5 micro_cond_encode_dim": unet.micro_cond_embed_dim
            == 5 * unet.micro_cond_encode_dim,
            "vocab_size is more than codebook_size": unet.vocab_size > self.codebook_size,
            "downsample is upsample": unet.downsample == unet.upsample,
            "the grid is square": self.grid[0] == self.grid[1],
        }
        if wrong := [rule for rule, holds in fitting.items() if not holds]:
            raise MaskweaveError(f"sizes of aMUSEd do not fit: {', '.join(wrong)} must hold")


class Told(NamedTuple):
    """What the text encoder makes of prompts."""

    summary: Float[Tensor, "batch numbers"]
    """Of a whole text."""
    states: Float[Tensor, "batch length width"]
    """Of each of its tokens."""


class AmusedTransformer(ForeignTransformer):
    """Logits over the codes for the tokens of an image, given a text.

    Parameters
    ----------
    config : AmusedConfig
        Sizes.
    files : dict
        Content of ``VOCABULARY`` and ``MERGES``.

    Raises
    ------
    MaskweaveError
        If a library is missing, it refuses the sizes, or the files are no vocabulary.
    """

    config: AmusedConfig

    def __init__(self, config: AmusedConfig, files: dict[str, bytes]) -> None:
        super().__init__()
        self.config, self.files = config, files
        self.null: Told | None = None
        self.last: tuple[str, Told] | None = None
        with needing("amused"):
            from diffusers.models.unets.uvit_2d import UVit2DModel
            from transformers import CLIPTextConfig, CLIPTextModelWithProjection
        try:
            self.unet: Any = UVit2DModel(
                hidden_size=config.dim,
                codebook_size=config.codebook_size,
                sample_size=config.grid[0],
                **asdict(config.unet),
            )
            # The rest of its config is of no use here, and its defaults may be beyond the sizes.
            text = CLIPTextConfig(**asdict(config.text), bos_token_id=None, pad_token_id=None)
            self.text_encoder: Any = CLIPTextModelWithProjection(text)
        # They raise whatever they stumble over.
        except Exception as error:
            reason = str(error).partition("\n")[0]
            raise MaskweaveError(f"diffusers or transformers refuse its sizes: {reason}") from error
        self.reader = _reader(config, files)
        embeddings = self.text_encoder.text_model.embeddings
        length = config.text.max_position_embeddings
        embeddings.position_ids = torch.arange(length, device="cpu")[None]  # in no file

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        masked: Bool[Tensor, "batch length"] | None = None,
        known: Float[Tensor, "batch length numbers"] | None = None,
        condition: Told | None = None,
    ) -> Float[Tensor, "batch length codes"] | Float[Tensor, "masked codes"]:
        """Predict tokens, as every ``Transformer`` does."""
        if condition is None:
            condition = self.null = self.null or self.told("")
        batch, mask = len(tokens), self.config.unet.vocab_size - 1
        grid = tokens.masked_fill(tokens == self.config.mask_token, mask)
        facts = torch.tensor([[*self.config.pixels, 0, 0, AESTHETIC]])  # no crop
        logits = self.unet(
            grid.unflatten(1, self.config.grid),
            encoder_hidden_states=condition.states.expand(batch, -1, -1),
            pooled_text_emb=condition.summary.expand(batch, -1),
            micro_conds=facts.to(self.device, self.dtype).expand(batch, -1),
        )
        logits = logits.flatten(2).transpose(1, 2)  # (B, N, K)
        return logits if masked is None else logits[masked]

    def states(
        self,
        tokens: Int[Tensor, "batch length"],
        known: Float[Tensor, "batch length numbers"] | None = None,
        blocks: int | None = None,
        condition: Told | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Return the hidden states in the transformer amid the convolutions.

        Where it works on half of the grid, each state is that of four tokens.
        """
        layers = self.unet.transformer_layers
        seen: list[Tensor] = []
        if blocks is None or blocks >= len(layers):
            hook = self.unet.project_from_hidden_norm
        else:
            hook = layers[blocks]

        def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(inputs[0])

        handle = hook.register_forward_pre_hook(keep)
        try:
            self(tokens, condition=condition)
        finally:
            handle.remove()
        side = self.config.grid[0] // (1 + self.config.unet.downsample)
        states = seen[0].transpose(1, 2).unflatten(2, (side, side))
        return F.interpolate(states, self.config.grid).flatten(2).transpose(1, 2)

    def condition(self, label: int | None, prompt: str | None) -> Told | None:
        """Return what the text encoder makes of a prompt, as ``forward`` takes it.

        The last one's is kept: a prompt is first looked at and then used, often fill after fill.
        """
        super().condition(label, None)
        if prompt is None:
            return None
        last = self.last
        if last is None or last[0] != prompt:
            last = self.last = prompt, self.told(prompt)
        return last[1]

    @torch.no_grad()
    def told(self, prompt: str) -> Told:
        """Read a text, of which no more than its first tokens count."""
        tokens = self.reader(
            [prompt],
            padding="max_length",
            truncation=True,
            max_length=self.config.text.max_position_embeddings,
            return_tensors="pt",
        ).input_ids.to(self.device)
        return self.read(tokens)

    def read(self, tokens: Int[Tensor, "batch length"]) -> Told:
        """Return what the text encoder makes of the tokens of texts."""
        found = self.text_encoder(tokens, output_hidden_states=True)
        return Told(found.text_embeds, found.hidden_states[-2])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or round the weights, as ``to`` asks, and read nothing from before."""
        self.null = self.last = None
        return super()._apply(fn, recurse)


def _reader(config: AmusedConfig, files: dict[str, bytes]) -> Any:
    """Return what makes text tokens.

    Raises
    ------
    MaskweaveError
        If the files are no vocabulary, or one that is larger than the text encoder's.
    """
    try:
        vocabulary = json.loads(files[VOCABULARY])
        lines = files[MERGES].decode().splitlines()
        merges: Any = [
            tuple(line.split()) for line in lines if line and not line.startswith("#version")
        ]
        if not all(type(token) is int for token in vocabulary.values()):
            raise ValueError(f"{VOCABULARY} does not number its words")
        if missing := {START, END, config.pad_token} - vocabulary.keys():
            raise ValueError(f"{VOCABULARY} lacks {', '.join(sorted(missing))}")
        if not 0 <= min(vocabulary.values()) <= max(vocabulary.values()) < config.text.vocab_size:
            raise ValueError(f"{VOCABULARY} is not of {config.text.vocab_size} words")
        from transformers import CLIPTokenizer

        return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=config.pad_token)
    # The libraries raise whatever they stumble over.
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise MaskweaveError(f"cannot read the vocabulary of prompts: {reason}") from error

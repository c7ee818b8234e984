"""Recipes by name: what to pass to ``maskweave train ... --preset``."""

from maskweave.tokenizer.vqgan import TokenizerConfig
from maskweave.training.loop import RunConfig
from maskweave.training.optimiser import OptimiserConfig
from maskweave.training.tokenizer_task import TokenizerRecipe
from maskweave.training.transformer_task import MaskingConfig, TransformerRecipe
from maskweave.transformer import TransformerConfig

TOKENIZERS = {
    # 64x64 images, 256 tokens of 4x4 pixels: the tokenizer of the shipped cats64. About 45 minutes
    # on two CPU cores beside other work; on 64 validation images 23.7 dB in the hole with the true
    # tokens, LPIPS-squeeze 0.029.
    # maskweave train tokenizer --data DIR --validation DIR --output RUN
    "cats64": TokenizerRecipe(
        model=TokenizerConfig(),
        optimiser=OptimiserConfig(learning_rate=1e-3, betas=(0.9, 0.99)),
        run=RunConfig(steps=3000, batch_size=32, save_every=200),
    ),
}

TRANSFORMERS = {
    # Stage 2 of the reference experiment, to the letter: every token is masked on its own with a
    # ratio of U(0, 0.5), the loss counts all tokens, the rate rises by the epoch, and positions
    # stay at their random initial values.
    # maskweave train transformer --preset reference --data DIR --tokenizer RUN --output MODEL
    "reference": TransformerRecipe(
        model=TransformerConfig(dropout=0.1, mask_logit=True),
        masking=MaskingConfig(
            ratio=(0.0, 0.5),
            independent=True,
            whole=1.0,
            unmasked_weight=1.0,
            label_smoothing=0.0,
            views=1,
            shift=0,
        ),
        optimiser=OptimiserConfig(
            warmup_epochs=50, decay=0.0, clip=0.0, ema=0.0, frozen=("position_embedding",)
        ),
        run=RunConfig(epochs=100, batch_size=16, precision="no"),
    ),
    # The transformer of the shipped cats64, small enough for 32 MB and two CPU cores: 90 minutes of
    # them, validation loss 3.96, masked accuracy 0.207.
    # maskweave train transformer --data DIR --validation DIR --tokenizer RUN --output MODEL
    "cats64": TransformerRecipe(
        model=TransformerConfig(
            dim=384, layers=6, heads=6, mlp_dim=1152, pre_norm=True, attention_dropout=0.0, patch=4
        ),
        masking=MaskingConfig(whole=0.2, label_smoothing=0.0),
        optimiser=OptimiserConfig(learning_rate=1e-3, weight_decay=0.05, warmup=200, decay=0.4),
        run=RunConfig(steps=4500, batch_size=32, save_every=200),
    ),
}

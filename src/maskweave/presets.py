"""Recipes by name: what to pass to ``maskweave train ... --preset``."""

from dataclasses import replace

from maskweave.tokenizer.vqgan import TokenizerConfig
from maskweave.training.decoder_task import DecoderRecipe
from maskweave.training.examples import ExamplesConfig
from maskweave.training.loop import RunConfig
from maskweave.training.narrow_task import NarrowRecipe
from maskweave.training.optimiser import OptimiserConfig
from maskweave.training.painting import PaintingLoss
from maskweave.training.tokenizer_task import TokenizerRecipe
from maskweave.training.transformer_task import MaskingConfig, TransformerRecipe
from maskweave.transformer import TransformerConfig

THIN = ("thin", "thin", "scratches", "scratches", "text")
"""Kinds of narrow holes: fine detail is learnt slowly, so that half of the examples are these."""

PHOTOS = ExamplesConfig(
    holes=(*THIN, "medium", "thick", "box", "half", "blob"), whole=0.05, crop=0.35, finer=0.25
)
"""Examples of the photo model, alike in all stages."""

TOKENIZERS = {
    # 64x64 images, 256 tokens of 4x4 pixels: the tokenizer of the shipped cats64, which got its
    # guide and 48 channels, not 32, at the pixels only later; nobody has trained it from scratch
    # with them yet. Without them about 45 minutes on two CPU cores beside other work; on 64
    # validation images 23.7 dB in the hole with the true tokens, LPIPS-squeeze 0.029.
    # maskweave train tokenizer --data DIR --validation DIR --output RUN
    "cats64": TokenizerRecipe(
        model=TokenizerConfig(guided=True, channels=(48, 64, 192)),
        optimiser=OptimiserConfig(learning_rate=1e-3, betas=(0.9, 0.99)),
        run=RunConfig(steps=3000, batch_size=32, save_every=200),
    ),
    # Photos of any size, filled at native pixels in windows of 128x128: 256 tokens of 8x8 pixels, a
    # decoder that paints the difference from its guide. The shipped model was trained in more
    # rounds (see its card); what recipes/photos.sh gives in one go is not measured yet.
    # maskweave train tokenizer --preset photos --data DIR --validation DIR --output RUN
    "photos": TokenizerRecipe(
        model=TokenizerConfig(
            image_size=128,
            patch_size=8,
            encoder_dim=384,
            channels=(32, 48, 96, 256),
            decoder_blocks=5,
            guided=True,
        ),
        examples=PHOTOS,
        unknown=0.4,
        loss=PaintingLoss(perceptual=0.7, entropy=0.1, adversarial_start=0.6),
        optimiser=OptimiserConfig(learning_rate=4e-4, betas=(0.9, 0.99), warmup=100, decay=0.2),
        run=RunConfig(steps=7000, batch_size=16, save_every=250),
    ),
    # Any folder of photos at 128x128, 256 tokens of 8x8 pixels, on a GPU: two CPU cores beside
    # other work train on 2.5 images/s. Its quality is not measured yet.
    # maskweave train tokenizer --preset folder128 --data DIR --output RUN
    "folder128": TokenizerRecipe(
        model=TokenizerConfig(
            image_size=128, patch_size=8, encoder_dim=512, channels=(32, 64, 128, 256)
        ),
        optimiser=OptimiserConfig(learning_rate=5e-4, betas=(0.9, 0.99)),
        run=RunConfig(steps=30_000, batch_size=64, workers=4),
    ),
    # Any folder of photos at 256x256, 256 tokens of 16x16 pixels, on a GPU or several: two CPU
    # cores beside other work train on 0.6 images/s. Its quality is not measured yet.
    # maskweave train tokenizer --preset folder256 --data DIR --output RUN
    "folder256": TokenizerRecipe(
        model=TokenizerConfig(
            image_size=256,
            patch_size=16,
            codebook_size=4096,
            codebook_dim=16,
            encoder_dim=768,
            channels=(32, 64, 96, 128, 256),
        ),
        optimiser=OptimiserConfig(learning_rate=5e-4, betas=(0.9, 0.99)),
        run=RunConfig(steps=60_000, batch_size=64, workers=8),
    ),
}

MODERN = TransformerConfig(
    pre_norm=True, rms_norm=True, swiglu=True, rotary=True, qk_norm=True, attention_dropout=0.0
)
"""The block of later models, which learns faster than the reference's: docs/ablations.md."""

TRANSFORMERS = {
    # Stage 2 of the reference experiment, to the letter: every token is masked on its own with a
    # ratio of U(0, 0.5), the loss counts all tokens, the rate rises by the epoch, and positions
    # stay at their random initial values. At the 1.4 images/s of two CPU cores in bfloat16 it would
    # take 6 days; after 21 minutes, without the long warm-up, validation loss 6.62, masked accuracy
    # 0.020.
    # maskweave train transformer --preset reference --data DIR --tokenizer RUN --output MODEL
    "reference": TransformerRecipe(
        model=TransformerConfig(dropout=0.1, mask_logit=True),
        examples=ExamplesConfig(whole=1.0, shift=0),
        masking=MaskingConfig(
            ratio=(0.0, 0.5), independent=True, unmasked_weight=1.0, label_smoothing=0.0, views=1
        ),
        optimiser=OptimiserConfig(
            warmup=0,
            warmup_epochs=50,
            decay=0.0,
            clip=0.0,
            ema=0.0,
            frozen=("position_embedding",),
        ),
        run=RunConfig(steps=0, epochs=100, batch_size=16, precision="no"),
    ),
    # Small enough for 32 MB and two CPU cores: 97 minutes there with run.compile. The rate of the
    # shipped one, which sees no guide, fell twice, first after 3000 steps: validation loss 3.66,
    # masked accuracy 0.228.
    # maskweave train transformer --data DIR --validation DIR --tokenizer RUN --output MODEL
    "cats64": TransformerRecipe(
        model=replace(MODERN, dim=384, depth=6, heads=6, mlp_dim=768, patch_size=4),
        masking=MaskingConfig(unmasked_weight=0.1, label_smoothing=0.0),
        optimiser=OptimiserConfig(learning_rate=1e-3, weight_decay=0.05, warmup=200, decay=0.4),
        run=RunConfig(steps=5300, batch_size=16, save_every=300),
    ),
    # The transformer for it, tokenised as it is drawn. See recipes/photos.sh.
    # maskweave train transformer --preset photos --data DIR --tokenizer RUN --output MODEL
    "photos": TransformerRecipe(
        model=replace(MODERN, dim=384, depth=8, heads=6, mlp_dim=1024, patch_size=8),
        examples=PHOTOS,
        masking=MaskingConfig(unmasked_weight=0.1, label_smoothing=0.0, views=0),
        optimiser=OptimiserConfig(learning_rate=8e-4, weight_decay=0.05, warmup=300),
        run=RunConfig(steps=8000, batch_size=16, save_every=250),
    ),
    # The transformer for it: 1.3 images/s on two CPU cores beside other work.
    # maskweave train transformer --preset folder128 --data DIR --tokenizer RUN --output MODEL
    "folder128": TransformerRecipe(
        model=TransformerConfig(
            dim=512,
            depth=12,
            heads=8,
            mlp_dim=2048,
            pre_norm=True,
            dropout=0.1,
            attention_dropout=0.0,
            patch_size=8,
        ),
        examples=ExamplesConfig(whole=0.2, shift=8),
        optimiser=OptimiserConfig(weight_decay=0.05, warmup=1000, ema=0.9998),
        run=RunConfig(steps=50_000, batch_size=64, workers=4),
    ),
    # The transformer for it: 0.3 images/s on two CPU cores beside other work.
    # maskweave train transformer --preset folder256 --data DIR --tokenizer RUN --output MODEL
    "folder256": TransformerRecipe(
        model=TransformerConfig(
            codebook_size=4096,
            dim=768,
            depth=16,
            heads=12,
            mlp_dim=3072,
            pre_norm=True,
            dropout=0.1,
            attention_dropout=0.0,
            patch_size=16,
        ),
        examples=ExamplesConfig(whole=0.2, shift=16),
        optimiser=OptimiserConfig(learning_rate=3e-4, weight_decay=0.05, warmup=2000, ema=0.9998),
        run=RunConfig(steps=100_000, batch_size=128, workers=8),
    ),
}

DECODERS = {
    # The shipped decoder, as its card tells, went through this stage in four rounds, the last on a
    # GPU. What it gained is in docs/ablations.md.
    # maskweave train decoder --data DIR --validation DIR --model MODEL --output MODEL2
    "cats64": DecoderRecipe(
        fill_steps=2,
        token_temperature=0.4,
        blocks=3,
        loss=PaintingLoss(adversarial_start=0.3),
        optimiser=OptimiserConfig(learning_rate=5e-4, betas=(0.9, 0.99), decay=0.8),
        run=RunConfig(steps=3200, batch_size=16, save_every=320),
    ),
    # The decoder for it. Scratches and text are left to the decoder for narrow holes; the rate
    # falls for nearly all of the run, as fine detail is learnt late. See recipes/photos.sh.
    # maskweave train decoder --preset photos --data DIR --model MODEL --output MODEL2
    "photos": DecoderRecipe(
        filled=0.9,
        expected=0.4,
        fill_steps=2,
        token_temperature=0.5,
        examples=replace(
            PHOTOS,
            holes=("thin", "thin", "medium", "thick", "thick", "box", "box", "blob", "half"),
            whole=0.03,
            native=0.4,
            soft=0.06,
        ),
        loss=PaintingLoss(perceptual=1.5, lattice=300.0, adversarial=0.3, adversarial_start=0.1),
        optimiser=OptimiserConfig(learning_rate=5e-4, betas=(0.9, 0.99), decay=0.95),
        run=RunConfig(steps=6000, batch_size=16, save_every=250),
    ),
}

NARROWS = {
    # The decoder for narrow holes of it. What it paints is compared pixel by pixel more than by
    # LPIPS, and the rate falls for most of the run. See recipes/photos.sh.
    # maskweave train narrow --preset photos --data DIR --model MODEL --output MODEL2
    "photos": NarrowRecipe(
        width=5,
        examples=replace(
            PHOTOS,
            holes=("scratch", "scratches", "scratches", "thin", "text"),
            whole=0.0,
            native=0.7,
            finer=0.0,
        ),
        loss=PaintingLoss(perceptual=0.2, adversarial=0.0),
        optimiser=OptimiserConfig(learning_rate=1e-3, betas=(0.9, 0.99), warmup=100, decay=0.7),
        run=RunConfig(steps=5000, batch_size=8, save_every=250),
    ),
}

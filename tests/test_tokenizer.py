"""The tokenizer: no peeking, straight-through gradients, a codebook that stays alive."""

import math

import pytest
import torch
import torch.nn.functional as F

from maskweave.errors import MaskweaveError
from maskweave.holes import token_mask
from maskweave.tokenizer.discriminator import PatchDiscriminator
from maskweave.tokenizer.losses import (
    adaptive_weight,
    adversarial_loss,
    hinge_discriminator_loss,
    pixel_loss,
)
from maskweave.tokenizer.quantize import Codebook
from maskweave.tokenizer.vqgan import VQGAN, TokenizerConfig

SMALL = TokenizerConfig(
    image_size=32, codebook_size=32, encoder_dim=16, channels=(8, 8, 16), decoder_blocks=1
)


@pytest.fixture
def vqgan() -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(SMALL).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def hole() -> torch.Tensor:
    hole = torch.zeros(3, 32, 32, dtype=torch.bool)
    hole[0, 5:20, 9:14] = True
    hole[1, :16] = True
    hole[2, 31, 31] = True
    return hole


def test_tokens_of_known_patches_do_not_depend_on_the_hole(vqgan, images, hole) -> None:
    clean, holed = vqgan.encode(images), vqgan.encode(images.masked_fill(hole[:, None], 0.0))
    known = ~token_mask(hole, SMALL.patch_size)
    assert torch.equal(clean[known], holed[known])


def test_the_decoder_never_reads_under_the_hole(vqgan, images, hole) -> None:
    tokens = vqgan.encode(images)
    other = torch.where(hole[:, None], torch.full_like(images, torch.nan), images)
    assert torch.equal(vqgan.decode(tokens, images, hole), vqgan.decode(tokens, other, hole))


def test_the_decoder_sees_the_known_pixels(vqgan, images, hole) -> None:
    tokens = vqgan.encode(images)
    changed = images.clone()
    changed[1, :, 16] *= -1  # just below the hole
    before, after = vqgan.decode(tokens, images, hole), vqgan.decode(tokens, changed, hole)
    assert not torch.equal(before[1, :, :16], after[1, :, :16])


def test_decoding_without_known_pixels_is_decoding_a_hole_that_is_everything(vqgan, images) -> None:
    tokens = vqgan.encode(images)
    everything = torch.ones(3, 32, 32, dtype=torch.bool)
    assert torch.equal(vqgan.decode(tokens), vqgan.decode(tokens, images, everything))


def test_known_pixels_without_a_hole_are_refused(vqgan, images) -> None:
    with pytest.raises(MaskweaveError, match="go together"):
        vqgan.decode(vqgan.encode(images), images)


@pytest.mark.parametrize(
    ("size", "patch", "channels"),
    [(64, 4, (8, 8, 16)), (128, 8, (8, 8, 8, 16)), (256, 16, (8, 8, 8, 8, 16))],
)
def test_other_sizes_build_and_run(size: int, patch: int, channels: tuple[int, ...]) -> None:
    config = TokenizerConfig(
        image_size=size, patch_size=patch, encoder_dim=16, channels=channels, decoder_blocks=1
    )
    vqgan = VQGAN(config)
    tokens = vqgan.encode(torch.zeros(1, 3, size, size))
    assert tokens.shape == (1, VQGAN(config).length) == (1, (size // patch) ** 2)
    assert vqgan.decode(tokens).shape == (1, 3, size, size)


@pytest.mark.parametrize(
    "sizes", [{"patch_size": 8}, {"image_size": 30}, {"channels": (8, 8, 12)}, {"image_size": 2}]
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, object]) -> None:
    with pytest.raises(MaskweaveError):
        TokenizerConfig(**sizes)  # type: ignore[arg-type]


def test_the_straight_through_gradient_is_the_identity() -> None:
    codebook = Codebook(16, 4)
    latents = F.normalize(torch.randn(2, 5, 4), dim=-1).requires_grad_()
    upstream = torch.randn(2, 5, 4)
    codes = codebook(latents).codes
    normalised = F.normalize(latents, dim=-1)
    (through,) = torch.autograd.grad((codes * upstream).sum(), latents, retain_graph=True)
    (identity,) = torch.autograd.grad((normalised * upstream).sum(), latents)
    torch.testing.assert_close(through, identity)


def test_quantising_picks_the_nearest_code_and_costs_its_distance() -> None:
    codebook = Codebook(8, 3, commitment=0.25)
    latents = torch.randn(2, 6, 3)
    quantized = codebook(latents)
    unit, codes = F.normalize(latents, dim=-1), F.normalize(codebook.weight, dim=-1)
    distances = torch.cdist(unit, codes.expand(2, -1, -1)).square()
    assert torch.equal(quantized.tokens, distances.argmin(-1))
    torch.testing.assert_close(quantized.loss, 1.25 * distances.amin(-1).mean())
    torch.testing.assert_close(quantized.codes, codes[quantized.tokens])


def test_tokens_in_training_are_those_in_use(vqgan) -> None:
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    everything = torch.ones(64, 32, 32, dtype=torch.bool)
    tokens = vqgan.encode(images)
    assert len(tokens.unique()) > 10
    with torch.autocast("cpu", torch.bfloat16):
        trained = vqgan(images, everything)
    assert torch.equal(trained.tokens, tokens)
    assert trained.latents.dtype == torch.float32 and trained.images.dtype == torch.bfloat16


def test_a_code_is_looked_up_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    codebook, latents = Codebook(1024, 8), torch.randn(4, 256, 8)
    tokens = codebook.nearest(latents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codebook.nearest(latents), tokens)


def test_codebook_and_commitment_losses_pull_on_their_own_side_only() -> None:
    codebook = Codebook(8, 3, commitment=0.0)
    latents = torch.randn(1, 6, 3, requires_grad=True)
    codebook(latents).loss.backward()
    assert codebook.weight.grad is not None and codebook.weight.grad.abs().sum() > 0
    assert latents.grad is None or latents.grad.abs().sum() == 0


def test_dead_codes_move_onto_latents_and_living_ones_stay() -> None:
    torch.manual_seed(0)
    codebook = Codebook(4, 3)
    before = codebook.weight.detach().clone()
    latents = before[:2].repeat(50, 1)[None]  # codes 0 and 1 are used, 2 and 3 never
    tokens = codebook.nearest(latents)
    revived = [
        codebook.revive(latents, tokens, torch.Generator().manual_seed(i), decay=0.5)
        for i in range(6)
    ]
    assert sum(revived).tolist() == [0, 0, 1, 1]
    assert torch.equal(codebook.weight[:2], before[:2])
    for code in codebook.weight[2:]:
        assert (code - F.normalize(before[:2], dim=-1)).norm(dim=-1).min() < 1e-6


def test_each_code_moves_onto_a_latent_of_its_own() -> None:
    codebook, latents = Codebook(100, 3), torch.randn(2, 60, 3)
    moved = codebook.revive_all(latents, torch.Generator().manual_seed(0))
    assert moved.all() and len(codebook.weight.unique(dim=0)) == 100
    codebook.usage.zero_()
    before = codebook.weight.detach().clone()
    few = codebook.revive(latents[:1], codebook.nearest(latents[:1]), torch.Generator())
    assert few.sum() == 60 and len(codebook.weight[few].unique(dim=0)) == 60
    assert torch.equal(codebook.weight[~few], before[~few])


def test_every_parameter_of_the_tokenizer_receives_a_gradient(images, hole) -> None:
    vqgan = VQGAN(SMALL)
    output = vqgan(images, hole)
    (output.images.square().mean() + output.codebook_loss).backward()
    without = [n for n, p in vqgan.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_tokenizer_learns_one_batch(images, hole) -> None:
    torch.manual_seed(0)
    vqgan = VQGAN(SMALL)
    smooth = F.avg_pool2d(images, 9, stride=1, padding=4)  # noise itself has no structure to learn
    optimiser = torch.optim.Adam(vqgan.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        output = vqgan(smooth, hole)
        loss = pixel_loss(output.images, smooth, hole, known_weight=1.0)
        optimiser.zero_grad()
        (loss + output.codebook_loss).backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]


def test_pixel_loss_counts_each_image_alike_and_the_known_by_their_weight() -> None:
    images, painted = torch.zeros(2, 3, 2, 2), torch.tensor([[1.0, 2], [3, 4]]).expand(2, 3, 2, 2)
    hole = torch.tensor([[[True, False], [False, True]], [[True, True], [True, True]]])
    assert pixel_loss(painted, images, hole, 0.0).item() == pytest.approx(2.5)
    assert pixel_loss(painted, images, ~hole, 0.0).item() == pytest.approx((2.5 + 0) / 2)
    assert pixel_loss(painted, images, hole, 0.5).item() == pytest.approx((3.75 + 2.5) / 2)


def test_the_hinge_loss_is_zero_beyond_the_margin_only() -> None:
    real, fake = torch.tensor([[[1.5, 1.0]]]), torch.tensor([[[-1.0, -3.0]]])
    everything = torch.ones(1, 1, 2, dtype=torch.bool)
    assert hinge_discriminator_loss(real, fake, everything).item() == 0
    loss = hinge_discriminator_loss(fake, real, everything)
    assert loss.item() == pytest.approx((3.0 + 2.25) / 2)


def test_logits_that_see_nothing_painted_are_neither_fake_nor_to_be_fooled() -> None:
    real = torch.zeros(2, 2, 2)
    fake = torch.tensor([[[0.5, 9.0], [9.0, 9.0]], [[0.5, 1.5], [9.0, 9.0]]], requires_grad=True)
    painted = torch.tensor([[[True, False], [False, False]], [[True, True], [False, False]]])
    # Each image counts alike.
    loss = hinge_discriminator_loss(real, fake, painted)
    assert loss.item() == pytest.approx((1 + (1.5 + (1.5 + 2.5) / 2) / 2) / 2)
    assert adversarial_loss(fake, painted).item() == pytest.approx(-(0.5 + 1.0) / 2)
    for one in (loss, adversarial_loss(fake, painted)):
        (gradient,) = torch.autograd.grad(one, fake)
        assert torch.equal(gradient != 0, painted)


def test_what_a_logit_sees_is_where_its_gradient_comes_from() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8).double()
    for i, layer in enumerate(discriminator.layers):
        if isinstance(layer, torch.nn.GroupNorm):  # whose statistics see everything
            discriminator.layers[i] = torch.nn.Identity()
    images = torch.randn(1, 3, 32, 48, dtype=torch.float64, requires_grad=True)
    logits = discriminator(images)
    for pixel in ((0, 0), (13, 20), (31, 47)):
        hole = torch.zeros(1, 32, 48, dtype=torch.bool)
        hole[0][pixel] = True
        sees = discriminator.sees(hole)
        assert sees.shape == logits.shape and sees.any() and not sees.all()
        for logit, seen in zip(logits.flatten(), sees.flatten(), strict=True):
            (gradient,) = torch.autograd.grad(logit, images, retain_graph=True)
            assert gradient[:, :, *pixel].any() == seen


def test_the_adaptive_weight_makes_both_gradients_equally_long() -> None:
    layer = torch.nn.Parameter(torch.randn(4, 4))
    losses = (3 * layer).square().sum(), layer.sin().sum()
    one, other = (torch.autograd.grad(loss, layer)[0] for loss in losses)
    weight = adaptive_weight(one, other)
    torch.testing.assert_close(one.norm(), (weight * other).norm(), rtol=1e-3, atol=0)


def test_the_discriminator_judges_patches() -> None:
    discriminator = PatchDiscriminator(8)
    images = torch.randn(2, 3, 32, 32)
    changed = images.clone()
    changed[:, :, :4, :4] = 1.0
    logits, others = discriminator(images), discriminator(changed)
    assert logits.shape == (2, 8, 8)
    assert (logits - others).abs()[:, 0, 0].min() > 0


def test_the_entropy_loss_rewards_latents_that_are_sure_and_use_all_codes_evenly() -> None:
    codebook = Codebook(16, 8)
    with torch.no_grad():
        codebook.weight.copy_(torch.cat([torch.eye(8), -torch.eye(8)]))
    even = codebook.codes.detach()[None]  # each latent one of the codes
    alike = even[:, :1].expand(1, 16, 8)
    between = F.normalize(even + even.roll(1, 1), dim=-1)
    assert codebook.entropy_loss(even).item() == pytest.approx(-math.log(16), abs=1e-4)
    assert codebook.entropy_loss(alike).item() == pytest.approx(0, abs=1e-4)
    assert codebook.entropy_loss(between) > codebook.entropy_loss(even) + 0.5
    latents = torch.randn(2, 4, 8, dtype=torch.float32, requires_grad=True)
    codebook.entropy_loss(latents).backward()
    assert latents.grad is not None and latents.grad.any()


def test_codes_far_from_all_latents_leave_the_entropy_loss_its_gradients() -> None:
    codebook = Codebook(2, 8)
    with torch.no_grad():
        codebook.weight.copy_(torch.eye(8)[0] * torch.tensor([[1.0], [-1.0]]))
    latents = (codebook.codes[:1] + 0.01 * torch.randn(2, 4, 8)).detach().requires_grad_()
    codebook.entropy_loss(latents).backward()
    assert latents.grad is not None and latents.grad.isfinite().all()
    assert codebook.weight.grad is not None and codebook.weight.grad.isfinite().all()

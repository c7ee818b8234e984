"""The transformer: attention against its formula, parity with the reference, and learning."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from maskweave.attention import Attention, rotate, rotation_2d
from maskweave.errors import MaskweaveError
from maskweave.guide import Guide
from maskweave.holes import known_patches
from maskweave.maskgit import DecodeSettings, corrupt, decode, masked_loss
from maskweave.transformer import BidirectionalTransformer, SwiGLU, TransformerConfig

SMALL = TransformerConfig(codebook_size=20, grid=(3, 3), dim=16, depth=2, heads=4, mlp_dim=24)


def test_against_the_formula_of_scaled_dot_product_attention() -> None:
    attention = Attention(dim=12, heads=3, dropout=0.0).eval()
    x = torch.randn(2, 5, 12)
    heads = []
    for head in range(3):
        own = slice(4 * head, 4 * head + 4)
        query, key, value = (linear(x)[:, :, own] for linear in (
            attention.query, attention.key, attention.value
        ))  # fmt: skip
        weights = (query @ key.transpose(1, 2) / math.sqrt(4)).softmax(-1)
        heads.append(weights @ value)
    expected = attention.output(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def test_training_in_bfloat16_on_a_cpu_has_the_gradients_of_float32() -> None:
    torch.manual_seed(0)
    attention = Attention(dim=64, heads=2, dropout=0.0, qk_norm=True)
    x, weight = torch.randn(2, 40, 64), torch.randn(2, 40, 64)
    gradients = []
    for low in (False, True):
        attention.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            (attention(x).float() * weight).sum().backward()
        gradients.append([each.grad.clone() for each in attention.parameters()])
    for exact, rounded in zip(*gradients, strict=True):
        assert (rounded - exact).norm() < 0.02 * exact.norm() + 1e-3


def test_against_torch_multihead_attention() -> None:
    attention = Attention(dim=32, heads=4, dropout=0.0).eval()
    theirs = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        theirs.out_proj.weight.copy_(attention.output.weight)
        theirs.out_proj.bias.copy_(attention.output.bias)
    x = torch.randn(3, 7, 32)
    expected, _ = theirs(x, x, x, need_weights=False)
    torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def test_dropout_acts_on_attention_weights_and_only_in_training() -> None:
    attention = Attention(dim=8, heads=2, dropout=0.5)
    x = torch.randn(1, 6, 8)
    assert not torch.equal(attention.train()(x), attention(x))
    assert torch.equal(attention.eval()(x), attention(x))
    # With values all equal, dropping weights after the softmax rescales the mix of each row.
    nn.init.zeros_(attention.value.weight)
    nn.init.ones_(attention.value.bias)
    nn.init.eye_(attention.output.weight)
    nn.init.zeros_(attention.output.bias)
    assert torch.allclose(attention.eval()(x), torch.ones(1, 6, 8))
    mixed = attention.train()(x.expand(2000, -1, -1))
    assert mixed.mean().item() == pytest.approx(1, abs=0.02)
    assert mixed.std().item() > 0.1


MODERN = {"pre_norm": True, "rms_norm": True, "swiglu": True, "rotary": True, "qk_norm": True}

BLOCKS = pytest.mark.parametrize(
    "block", [{}, {"pre_norm": True}, MODERN], ids=["post-norm", "pre-norm", "modern"]
)


def test_rotated_queries_and_keys_see_relative_positions_only() -> None:
    rotation = rotation_2d((5, 5), width=8)
    query, key = torch.randn(2, 1, 1, 1, 8).expand(-1, -1, -1, 25, -1)
    products = (rotate(query, rotation) @ rotate(key, rotation).transpose(2, 3)).view(5, 5, 5, 5)
    for (y, x), (to_y, to_x) in [((0, 0), (1, 2)), ((2, 1), (1, 0)), ((0, 3), (2, 3))]:
        one = products[y, x, to_y, to_x]
        torch.testing.assert_close(products[y + 2, x + 1, to_y + 2, to_x + 1], one)
    for other in (products[0, 0, 1, 0], products[0, 0, 0, 1], products[0, 1, 0, 0]):
        assert abs(other - products[0, 0, 0, 0]) > 1e-3
    torch.testing.assert_close(rotate(query, rotation).norm(dim=-1), query.norm(dim=-1))


def test_swiglu_is_its_formula() -> None:
    mlp = SwiGLU(6, 10)
    x = torch.randn(2, 3, 6)
    gate = mlp.gate(x)
    expected = mlp.output(gate / (1 + (-gate).exp()) * mlp.value(x))
    torch.testing.assert_close(mlp(x), expected)


def test_a_transformer_that_scores_the_mask_token_never_predicts_it() -> None:
    config = TransformerConfig(20, (3, 3), 16, 2, 4, 24, mask_logit=True)
    model = BidirectionalTransformer(config).eval()
    assert model(torch.randint(21, (3, 9))).shape == (3, 9, 21)
    model.bias.data[:, 20] = 100.0
    masked = torch.ones(3, 9, dtype=torch.bool)
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    *_, last = decode(
        lambda tokens, wanted, _: model(tokens, wanted), masked.long(), masked,
        DecodeSettings(steps=3), grid=(3, 3), codebook_size=20, mask_token=20,
        generators=generators,
    )  # fmt: skip
    assert last.tokens.max() < 20


@BLOCKS
@pytest.mark.parametrize("tied_output", [False, True])
def test_logits_of_masked_positions_are_those_of_all_positions(
    block: dict[str, bool], tied_output: bool
) -> None:
    config = TransformerConfig(20, (3, 3), 16, 2, 4, 24, tied_output=tied_output, **block)
    model = BidirectionalTransformer(config).eval()
    nn.init.normal_(model.bias)
    tokens, masked = torch.randint(21, (3, 9)), torch.rand(3, 9) < 0.5
    logits = model(tokens)
    assert logits.shape == (3, 9, 20)
    torch.testing.assert_close(model(tokens, masked), logits[masked])


@BLOCKS
@pytest.mark.parametrize("tied_output", [False, True])
@pytest.mark.parametrize("patch", [0, 2])
def test_every_parameter_receives_a_gradient(
    block: dict[str, bool], tied_output: bool, patch: int
) -> None:
    config = TransformerConfig(
        20, (3, 3), 16, 2, 4, 24, tied_output=tied_output, patch_size=patch, **block
    )
    model = BidirectionalTransformer(config)
    tokens = torch.randint(20, (4, 9))
    corrupted = corrupt(tokens, config.mask_token, ratio=(0.5, 0.5))
    known = torch.randn(4, 9, 4 * patch**2)
    masked_loss(model(corrupted.tokens, known=known), tokens, corrupted.masked).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A constant added to every key cancels in the softmax: its gradient is zero but for rounding.
    assert not [name for name in without if not name.endswith("key.bias")]


def test_rotary_angles_are_never_rounded_and_never_saved() -> None:
    config = TransformerConfig(20, (3, 5), 16, 2, 4, 24, **MODERN)
    model = BidirectionalTransformer(config)
    exact = model.rotation
    assert "rotation" not in model.state_dict()
    assert torch.equal(model.to(torch.bfloat16).rotation, exact)
    assert model.position_embedding.dtype == torch.bfloat16
    tokens = torch.randint(20, (2, 15))
    assert model(tokens).dtype == torch.bfloat16


def test_a_guide_is_seen_under_the_hole_only() -> None:
    config = TransformerConfig(20, (4, 4), 16, 2, 4, 24, patch_size=2, guided=True)
    model = BidirectionalTransformer(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    tokens, images = torch.full((1, 16), 20), torch.rand(1, 3, 8, 8)
    hole = torch.zeros(1, 8, 8, dtype=torch.bool)
    hole[:, :4] = True

    def logits(guide: torch.Tensor, finer: bool) -> torch.Tensor:
        guides = Guide(guide, torch.tensor([finer]))
        return model(tokens, known=known_patches(images, hole, 2, guides))

    one = torch.rand(1, 3, 8, 8)
    outside = torch.where(hole[:, None], one, 1 - one)
    assert torch.equal(logits(one, False), logits(outside, False))
    assert not torch.equal(logits(one, False), logits(1 - one, False))
    assert not torch.equal(logits(one, False), logits(one, True))
    with pytest.raises(MaskweaveError, match="patch_size must not be 0"):
        TransformerConfig(guided=True)


def test_every_token_sees_every_other() -> None:
    model = BidirectionalTransformer(SMALL).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    tokens = torch.randint(20, (1, 9))
    before = model(tokens)
    for position in range(9):
        changed = tokens.clone()
        changed[0, position] = (changed[0, position] + 1) % 20
        assert ((model(changed) - before).abs().amax(-1) > 1e-6).all()


def test_known_pixels_count_only_for_a_transformer_that_sees_them() -> None:
    tokens = torch.randint(20, (1, 9))
    some, other = torch.randn(2, 1, 9, 16)
    for patch in (0, 2):
        config = TransformerConfig(20, (3, 3), 16, 2, 4, 24, patch_size=patch)
        model = BidirectionalTransformer(config).eval()
        same = torch.equal(model(tokens, known=some), model(tokens, known=other))
        assert same == (patch == 0)
    with pytest.raises(MaskweaveError, match="needs the known pixels"):
        model(tokens)


def test_one_batch_is_learnt_by_heart() -> None:
    torch.manual_seed(0)
    model = BidirectionalTransformer(SMALL)
    tokens = torch.randint(20, (4, 9))
    corrupted = corrupt(tokens, SMALL.mask_token, ratio=(0.4, 0.4))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = masked_loss(model(corrupted.tokens), tokens, corrupted.masked)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    predicted = model.eval()(corrupted.tokens).argmax(-1)
    assert torch.equal(predicted[corrupted.masked], tokens[corrupted.masked])


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MaskweaveError, match="dim 10 is not a multiple of heads 4"):
        TransformerConfig(dim=10, heads=4)
    with pytest.raises(MaskweaveError, match="multiple of 4"):
        TransformerConfig(dim=24, heads=4, rotary=True)
    with pytest.raises(MaskweaveError, match=r"^dropout should be less than 1, got 1\.0$"):
        TransformerConfig(dropout=1.0)


NAMES = {
    "tok_emb.weight": "token_embedding.weight",
    "pos_emb": "position_embedding",
    "bias": "bias",
    "LN": "embedding_norm",
    "Token_Prediction.0": "head.0",
    "Token_Prediction.2": "head.2",
    "q_linear": "attention.query",
    "k_linear": "attention.key",
    "v_linear": "attention.value",
    "out_linear": "attention.output",
    "LayerNorm1": "attention_norm",
    "LayerNorm2": "mlp_norm",
    "MLP": "mlp",
}


def translate(name: str) -> str:
    parts = name.replace("Attention.", "").split(".")
    if parts[0] == "blocks":
        return ".".join([*parts[:2], NAMES[parts[2]], *parts[3:]])
    for length in (2, 1):
        if (head := ".".join(parts[:length])) in NAMES:
            return ".".join([NAMES[head], *parts[length:]])
    raise KeyError(name)


def test_against_the_reference_experiment(shared: Path) -> None:
    folder = shared / "golden" / "reference_transformer_separate"
    weights = torch.load(folder / "epoch_5.pt", weights_only=True)
    config = TransformerConfig(
        64, (16, 16), dim=64, depth=3, heads=16, mlp_dim=128, mask_logit=True
    )
    model = BidirectionalTransformer(config).eval()
    model.load_state_dict({translate(name): value for name, value in weights.items()})
    golden = np.load(folder / "io.npz")
    logits = model(torch.from_numpy(golden["ids"]))
    expected = torch.from_numpy(golden["logits"])
    # The stored logits, up to 18 in size, are themselves 1.5e-5 from those of float64 arithmetic.
    scale = expected.abs().max()
    torch.testing.assert_close(logits / scale, expected / scale, atol=1e-5, rtol=0)

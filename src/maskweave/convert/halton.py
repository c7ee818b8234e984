"""Checkpoints of valeoai/Halton-MaskGIT, version 2, whose tokenizer is LlamaGen's."""

from pathlib import Path

from maskweave.checkpoint import blank
from maskweave.convert.weights import State, fill, numbered, plain, read_state, shape, square
from maskweave.errors import MaskweaveError
from maskweave.foreign.halton import HaltonConfig, HaltonTransformer
from maskweave.maskgit import DecodeSettings

DECODING = DecodeSettings(
    steps=32, schedule="arccos", order="halton", guidance_scale=3.0, guidance_schedule="constant"
)
"""How the project's README samples; its weight w of guidance is a scale of 1 + w."""

HEADS = {(384, 6): 6, (512, 12): 6, (768, 12): 12, (1024, 24): 16, (1152, 28): 16}
"""Attention heads, which no shape tells, by the width and depth of the project's sizes."""

BLOCK_NAMES = {
    "modulation": "mlp.1",
    "attention_norm": "ln1",
    "attention.query": "attn.wq",
    "attention.key": "attn.wk",
    "attention.value": "attn.wv",
    "attention.output": "attn.wo",
    "mlp_norm": "ln2",
    "mlp.gate": "ff.w1",
    "mlp.value": "ff.w3",
    "mlp.output": "ff.w2",
}


def transformer(file: Path, notes: list[str], heads: int | None = None) -> HaltonTransformer:
    """Read a checkpoint, as ``to_transformer`` does."""
    return to_transformer(read_state(file, notes), heads)


def to_transformer(weights: State, heads: int | None = None) -> HaltonTransformer:
    """Make a transformer of weights.

    Parameters
    ----------
    weights : dict
        In float32; each must be of use.
    heads : int, optional
        Attention heads, which must be said of sizes that the project does not name.

    Raises
    ------
    MaskweaveError
        If weights are missing, left over or of other shapes than the rest implies, if the heads
        do not fit, or if the matrix of the output is not the embedding of the tokens.
    """
    if unknown := [name for name in weights if name.startswith(("in_proj.", "out_proj."))]:
        raise MaskweaveError(f"has {plain(unknown[0])}: patches of tokens (proj 2) are not known")
    rows, dim = shape(weights, "tok_emb.weight", 2)
    if (tied := weights.get("head.weight")) is not None:
        if not tied.equal(weights["tok_emb.weight"]):
            raise MaskweaveError("has a head.weight that is not tok_emb.weight, as it is there")
        weights = {name: value for name, value in weights.items() if name != "head.weight"}
    layers = "transformer.layers."
    depth = numbered(weights, layers)
    heads = heads or HEADS.get((dim, depth))
    if heads is None:
        raise MaskweaveError(f"has a width of {dim} and {depth} blocks: say --heads")
    config = HaltonConfig(
        codebook_size=rows - 1,
        grid=square(shape(weights, "pos_emb.weight", 2)[0]),
        dim=dim,
        depth=depth,
        heads=heads,
        mlp_dim=shape(weights, f"{layers}0.ff.w1.weight", 2)[0],
        classes=shape(weights, "cls_emb.weight", 2)[0] - 1,
        registers=len(weights.get("reg_tokens.weight", ())),
    )
    names = {
        "class_embedding": "cls_emb",
        "token_embedding": "tok_emb",
        "position_embedding": "pos_emb.weight",
        "registers": "reg_tokens.weight",
        "final_norm": "last_norm.norm_final",
        "final_bias": "last_norm.norm_final.bias",
        "final_modulation": "last_norm.mlp.1",
        "bias": "head.bias",
    }
    for i in range(depth):
        for ours, theirs in BLOCK_NAMES.items():
            names[f"blocks.{i}.{ours}"] = f"{layers}{i}.{theirs}"
    with blank():
        module = HaltonTransformer(config)
    fill(module, weights, names)
    return module.eval()

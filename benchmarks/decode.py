"""Speed of filling with the reference transformer, against this machine's matrix products.

    python benchmarks/decode.py [--steps 15] [--device cpu]

All figures of one run belong together: machines differ, and so do their moods.
"""

import argparse
import math

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from maskweave.holes import draw_hole, token_mask
from maskweave.pipeline import InpaintPipeline
from maskweave.tokenizer.vqgan import VQGAN, TokenizerConfig
from maskweave.training.speed import gemm_rate, seconds
from maskweave.transformer import BidirectionalTransformer, TransformerConfig


def plain_fill(
    pipeline: InpaintPipeline, known: torch.Tensor, hole: torch.Tensor, steps: int
) -> torch.Tensor:
    """Fill one image as the reference experiment's loop does: all logits, pixels at every step."""
    tokenizer, transformer = pipeline.tokenizer, pipeline.transformer
    tokens = tokenizer.encode(known)
    masked = token_mask(hole, tokenizer.patch_size)
    holes, mask_token = int(masked.sum()), transformer.config.mask_token
    picture = known
    for step in range(1, steps + 1):
        logits = transformer(tokens.masked_fill(masked, mask_token))
        probability, predicted = logits.softmax(-1).max(-1)
        ratio = math.cos(math.pi / 2 * step / steps)
        gumbel = -torch.log(-torch.log(torch.rand_like(probability)))
        confidence = probability + 4.5 * (1 - ratio) * gumbel
        confidence[~masked] = torch.inf
        tokens = torch.where(masked, predicted, tokens)
        again = confidence.argsort(-1)[:, : int(ratio * holes)]
        masked = torch.zeros_like(masked).scatter(1, again, True)
        picture = tokenizer.decode(tokens, known, hole)
    return picture


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--device", type=torch.device, default="cpu")
    arguments = parser.parse_args()
    device, steps = arguments.device, arguments.steps
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, T = {steps}")

    rates = {name: gemm_rate(getattr(torch, name), device) for name in ("float32", "bfloat16")}
    for name, rate in rates.items():
        print(f"GEMM {name}: {rate / 1e9:.0f} GFLOP/s")

    transformer = BidirectionalTransformer(TransformerConfig())
    pipeline = InpaintPipeline(VQGAN(TokenizerConfig()), transformer)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(16)]
    holes = [draw_hole("random-walk", 64, 64, rng) for _ in range(16)]
    pipeline.to(device)

    one = (images[0], holes[0])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        pipeline(*one, num_inference_steps=steps)
    flops = counter.get_total_flops()
    print(f"one image: {flops / 1e9:.0f} GFLOP")

    known = torch.from_numpy(images[0]).permute(2, 0, 1)[None].to(device) / 127.5 - 1
    hole = torch.from_numpy(holes[0])[None].to(device)
    plain = seconds(lambda: plain_fill(pipeline, known, hole, steps), device, 3)
    print(f"plain loop, float32, batch 1: {1 / plain:.3f} images/s")
    for dtype in ("float32", "bfloat16"):
        pipeline.to(device, getattr(torch, dtype))
        for batch in (1, 16):
            work = (images[:batch], holes[:batch])
            spent = seconds(lambda: pipeline(*work, num_inference_steps=steps), device, 3)  # noqa: B023
            rate = batch / spent
            print(
                f"pipeline, {dtype}, batch {batch}: {rate:.3f} images/s, "
                f"{rate * flops / rates[dtype]:.0%} of the GEMM rate, "
                f"{rate * plain:.2f}x the plain loop"
            )


if __name__ == "__main__":
    main()

"""What a foreign tokenizer costs an image on one core, and the decoder that takes its own's place.

    OMP_NUM_THREADS=1 python benchmarks/painted.py

Times are of the process on the CPU. The foreign one has the layers of taming's VQGAN for ImageNet,
f = 16, at 256x256, with random weights: these change no time.
"""

import time
from collections.abc import Callable

import torch

from maskweave.tokenizer.convolutional import ConvolutionalConfig, ConvolutionalVQGAN, Layer
from maskweave.tokenizer.painted import PaintedVQGAN

SIZE, MULTIPLES, WIDTH = 256, (1, 1, 2, 2, 4), 128
REPEATS = 3

Layers = list[tuple[Layer, int]]


def level(layers: Layers, width: int, blocks: int, attends: bool) -> None:
    """Add the residual blocks of one size, each with attention behind it or not."""
    for _ in range(blocks):
        layers.append(("residual", width))
        if attends:
            layers.append(("attention", width))


def taming() -> ConvolutionalConfig:
    """Return the config of ``vqgan_imagenet_f16_16384``."""
    widths = [WIDTH * multiple for multiple in MULTIPLES]
    middle: Layers = [("residual", widths[-1]), ("attention", widths[-1]), ("residual", widths[-1])]
    encoder: Layers = []
    for place, width in enumerate(widths):
        level(encoder, width, 2, attends=place == len(widths) - 1)
        if place < len(widths) - 1:
            encoder.append(("down", width))
    decoder: Layers = [*middle]
    for place, width in reversed(list(enumerate(widths))):
        level(decoder, width, 3, attends=place == len(widths) - 1)
        if place:
            decoder.append(("up", width))
    encoder += middle
    return ConvolutionalConfig(
        tuple(kind for kind, _ in encoder),
        (widths[0], *(width for _, width in encoder)),
        tuple(kind for kind, _ in decoder),
        (widths[-1], *(width for _, width in decoder)),
        SIZE,
        codebook_size=16384,
        codebook_dim=256,
    )


def seconds(run: Callable[[], object]) -> float:
    """Return the least processor time of a few runs, after one to warm up."""
    found: list[float] = []
    for _ in range(REPEATS + 1):
        started = time.process_time()
        run()
        found.append(time.process_time() - started)
    return min(found[1:])


def main() -> None:
    """Print one line for each network."""
    torch.manual_seed(0)
    foreign = ConvolutionalVQGAN(taming()).eval()
    painted = PaintedVQGAN.around(foreign).eval()
    image = torch.rand(1, 3, SIZE, SIZE) * 2 - 1
    hole = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    hole[:, 64:192, 64:192] = True
    codes = foreign.codes[:1].expand(1, foreign.length, -1).detach()

    def learn() -> None:
        painted.paint(codes, image, hole).sum().backward()

    with torch.no_grad():
        rows = {
            "foreign encoder": (foreign.encoder, lambda: foreign.encode(image)),
            "foreign decoder": (foreign.decoder, lambda: foreign.paint(codes)),
            "our decoder": (painted.decoder, lambda: painted.paint(codes, image, hole)),
        }
        times = {name: seconds(run) for name, (_, run) in rows.items()}
    rows["our decoder, forward and backward"] = (painted.decoder, learn)
    times["our decoder, forward and backward"] = seconds(learn)
    for name, (network, _) in rows.items():
        weights = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        print(f"{name}: {weights:.1f} M weights, {times[name]:.2f} s")


if __name__ == "__main__":
    main()

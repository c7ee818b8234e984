r"""Does a model know its own photos from others? Fits and tests the probe of ``maskweave.domain``.

    python benchmarks/domain.py --model MODEL --own DIR --others DIR \
        --own-test DIR --others-test DIR

``--own`` holds whole photos of the model's kind, ``--others`` photos of anything. Both come small
and large, with and without JPEG's traces and with holes of the same kinds, so that the probe cannot
go by these. ``--save`` writes it to MODEL.
"""

import argparse
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from maskweave.crops import plan_crops, shrink
from maskweave.domain import Probe, traits
from maskweave.evaluation.examples import by_stem, read_rgb, spread
from maskweave.holes import KINDS, draw_hole
from maskweave.images import Pixels
from maskweave.pipeline import InpaintPipeline
from maskweave.progress import progress

DECAY = 0.003
"""Weight of the squared weights in the loss."""

FALSE_ALARMS = 0.025
"""Share of the model's own photos, among those not fitted on, that a probe may err on."""

HELD_OUT = 4
"""One in so many of the model's own photos is kept back for that."""

Piece = tuple[Tensor, Tensor]
"""Known pixels and the hole, at the model's size."""


def own_piece(
    pixels: Pixels, size: tuple[int, int], context: float, rng: np.random.Generator
) -> Piece:
    """Return what a model sees of a photo with a hole, small or large, moved a bit."""
    large = rng.random() < 0.5
    image = Image.fromarray(pixels)
    if large or image.size != size[::-1]:
        side = min(image.size) * rng.uniform(0.85, 1)
        left, top = (rng.uniform(0, full - side) for full in image.size)
        wanted = tuple(length * (4 if large else 1) for length in size[::-1])
        box = (left, top, left + side, top + side)
        image = image.resize(wanted, Image.Resampling.BICUBIC, box)
    return seen(image, size, context, rng)


def other_piece(
    pixels: Pixels, size: tuple[int, int], context: float, rng: np.random.Generator
) -> Piece:
    """Return what a model sees of a photo with a hole, large or shrunk."""
    image = Image.fromarray(pixels)
    if rng.random() >= 0.5:
        side = min(image.size) * rng.uniform(0.5, 1)
        left, top = (rng.uniform(0, full - side) for full in image.size)
        box = (left, top, left + side, top + side)
        image = image.resize(size[::-1], Image.Resampling.BICUBIC, box)
    return seen(image, size, context, rng)


def seen(
    image: Image.Image, size: tuple[int, int], context: float, rng: np.random.Generator
) -> Piece:
    """Return the first crop around a hole of any kind, shrunk to the model's size."""
    pixels = traced(image, rng)
    kind = KINDS[int(rng.integers(len(KINDS)))]
    hole = draw_hole(kind, *pixels.shape[:2], rng)
    crop = plan_crops(hole, max(size), context=context)[0]
    return shrink(crop.window(pixels), crop.window(hole), size)


def traced(image: Image.Image, rng: np.random.Generator) -> Pixels:
    """Return pixels, every other time as JPEG keeps them."""
    if rng.random() < 0.5:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(60, 96)))
        image = Image.open(file)
    return np.array(image)


def read(folder: Path, number: int) -> Iterator[Pixels]:
    """Yield so many photos of a folder, spread evenly over all."""
    for file in spread(sorted(by_stem(folder).values()), number):
        yield read_rgb(file)


def traits_of(pipeline: InpaintPipeline, pieces: list[Piece]) -> Float[Tensor, "images traits"]:
    """Return the traits of pieces."""
    found: list[Tensor] = []
    with progress(len(pieces)) as advance:
        for start in range(0, len(pieces), 16):
            known, hole = (
                torch.stack(each) for each in zip(*pieces[start : start + 16], strict=True)
            )
            found.append(traits(pipeline.tokenizer, pipeline.transformer, known, hole))
            advance(len(known))
    return torch.cat(found).double()


def fit(own: Float[Tensor, "own traits"], others: Float[Tensor, "others traits"]) -> Probe:
    """Fit a probe by logistic regression, so that it errs on few of the own that were kept back."""
    kept, own = own[::HELD_OUT], torch.cat([own[i::HELD_OUT] for i in range(1, HELD_OUT)])
    every = torch.cat([own, others])
    mean, width = every.mean(0), every.std(0) + 1e-6
    x = (every - mean) / width
    foreign = torch.cat([torch.zeros(len(own)), torch.ones(len(others))]).double()
    balance = torch.where(foreign > 0, len(every) / len(others), len(every) / len(own)) / 2
    weight = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        score = x @ weight + bias
        value = F.binary_cross_entropy_with_logits(score, foreign, weight=balance)
        value = value + DECAY * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    found = weight.detach() / width
    threshold = torch.quantile(kept @ found, 1 - FALSE_ALARMS)
    return Probe(found.float(), -threshold.float())


def main() -> None:
    """Fit, test and, if wanted, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    for name in ("own", "others", "own-test", "others-test"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2500, help="Of each kind, to fit on.")
    parser.add_argument("--test-images", type=int, default=300)
    parser.add_argument("--save", action="store_true")
    given = parser.parse_args()
    pipeline = InpaintPipeline.from_pretrained(given.model)
    size = pipeline.tokenizer.image_size
    found: dict[str, Tensor] = {}
    for seed, (name, piece) in enumerate(
        {
            "own": own_piece,
            "others": other_piece,
            "own_test": own_piece,
            "others_test": other_piece,
        }.items()
    ):
        number = given.test_images if name.endswith("test") else given.images
        rng = np.random.default_rng(seed)
        cut = partial(piece, size=size, context=pipeline.defaults.context, rng=rng)
        found[name] = traits_of(
            pipeline, [cut(photo) for photo in read(getattr(given, name), number)]
        )
    probe = fit(found["own"], found["others"])
    for name, values in found.items():
        share = probe.foreign(values.float()).float().mean()
        print(f"{name:12} {len(values)} images, {share:.1%} noted")
    if given.save:
        probe.save(Path(given.model))


if __name__ == "__main__":
    main()

"""How well the deviation of several fills tells how far they are from the truth.

    python benchmarks/uncertainty.py --truth cats64/val --kind random-walk --images 100

Each hole is filled several times; their mean is the guess, their deviation at a pixel, as
``uncertainty=True`` returns it, its expected error. Hole pixels of all images are sorted by it into
quintiles. Were it calibrated, the error would be as large as the deviation, and the truth within 1,
2 and 3 deviations of the guess in 68, 95 and 99.7 % if errors were normally distributed.
"""

import argparse
from pathlib import Path

import numpy as np

from maskweave import InpaintPipeline, seeded
from maskweave.evaluation.examples import by_stem, read_rgb, spread
from maskweave.holes import PHOTO_KINDS, draw_hole
from maskweave.masks import read_mask

LEAST = 0.5 / 255
"""Least deviation, half a level: fills that round to the same byte may still differ by as much."""


def main() -> None:
    """Print a row for each quintile and one for all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cats64")
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--fills", type=int, default=16)
    parser.add_argument("--token-temperature", type=float, help="the model's by default")
    parser.add_argument("--kind", choices=PHOTO_KINDS, default="random-walk")
    parser.add_argument("--masks", type=Path, help="folder of masks by name, instead of a kind")
    parser.add_argument("--invert-mask", action="store_true", help="black is the hole")
    arguments = parser.parse_args()
    pipeline = InpaintPipeline.from_pretrained(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    files = by_stem(arguments.truth)
    masks = by_stem(arguments.masks) if arguments.masks else {}
    deviations, errors = [], []
    for number, stem in enumerate(spread(sorted(files), arguments.images)):
        truth = read_rgb(files[stem])
        if masks:
            hole = read_mask(masks[stem], invert=arguments.invert_mask).hole
        else:
            hole = draw_hole(arguments.kind, *truth.shape[:2], np.random.default_rng((0, number)))
        output = pipeline(
            truth,
            hole,
            num_images_per_prompt=arguments.fills,
            generator=seeded(0, stem),
            token_temperature=arguments.token_temperature,
            output_type="np",
            uncertainty=True,
        )
        assert output.uncertainty is not None
        guess = np.mean(output.images, axis=0)
        deviations.append(output.uncertainty[0][hole].clip(LEAST))
        errors.append(abs(guess - truth / 255)[hole])
    deviation, error = np.concatenate(deviations), np.concatenate(errors)  # (pixels,), (pixels, 3)
    order = np.argsort(deviation)
    quintiles = [*np.array_split(order, 5), order]
    print("| quintile | deviation | error | within 1 | 2 | 3 |\n|---|---|---|---|---|---|")
    for name, part in zip(("1st", "2nd", "3rd", "4th", "5th", "all"), quintiles, strict=True):
        ratio = error[part] / deviation[part, None]
        within = " | ".join(f"{(ratio <= times).mean():.0%}" for times in (1, 2, 3))
        squares = np.square(deviation[part]).mean(), np.square(error[part]).mean()
        levels = " | ".join(f"{255 * np.sqrt(square):.1f}" for square in squares)
        print(f"| {name} | {levels} | {within} |")


if __name__ == "__main__":
    main()

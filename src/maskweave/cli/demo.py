"""``maskweave demo``: the shipped model on a photo that comes with scikit-image."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskweave.cli.options import Overwrite, Seed, load_model

if TYPE_CHECKING:
    from maskweave.images import Pixels

FACE = (75, 0, 375, 300)
"""Where the cat's face is in ``skimage.data.chelsea``: left, upper, right, lower."""

TILE = 160
"""Side of a picture on the sheet, in pixels."""


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("maskweave-demo"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fill a hole in a photo of a cat; write input, hole, result, every step and a sheet of all."""
    import numpy as np
    from PIL import Image
    from skimage.data import chelsea

    from maskweave.call import Photo
    from maskweave.holes import draw_hole
    from maskweave.images import as_picture, covered, refuse_existing
    from maskweave.writing import write_image

    pipeline = load_model("cats64", "cpu", "float32")
    size, _ = pipeline.tokenizer.image_size
    steps = pipeline.defaults.last_step
    names = ["input", "hole", "result", *(f"step_{k:02d}" for k in range(1, steps + 1))]
    files = [output / f"{name}.png" for name in [*names, "sheet"]]
    refuse_existing(files, overwrite)

    photo = Image.fromarray(chelsea()).crop(FACE).resize((size, size), Image.Resampling.LANCZOS)
    face = np.array(photo)
    hole = draw_hole("random-walk", size, size, np.random.default_rng(seed))
    asked = [Photo(as_picture(face), hole, [seed])]
    [(_, [states])] = pipeline.fill(asked, pipeline.defaults, every_step=True)
    painted = [state.image.pixels for state in states]
    first = [face, covered(face, hole), painted[-1]]
    decided = [covered(state.image.pixels, state.masked) for state in states]

    sheet = _sheet(
        [
            dict(zip(names, first, strict=False)),
            {f"step {k}: prediction": picture for k, picture in enumerate(painted, start=1)},
            {f"step {k}: kept": picture for k, picture in enumerate(decided, start=1)},
        ]
    )
    for file, picture in zip(files, [*first, *painted, sheet], strict=True):
        write_image(picture, file)
        typer.echo(file)


def _sheet(rows: "list[dict[str, Pixels]]") -> "Pixels":
    """Arrange labelled pictures, enlarged pixel by pixel."""
    import numpy as np
    from PIL import Image, ImageDraw

    label, gap = 18, 6
    width = max(len(row) for row in rows) * (TILE + gap) + gap
    canvas = Image.new("RGB", (width, len(rows) * (TILE + label + gap) + gap), "white")
    draw = ImageDraw.Draw(canvas)
    for i, row in enumerate(rows):
        for j, (name, picture) in enumerate(row.items()):
            x, y = gap + j * (TILE + gap), gap + i * (TILE + label + gap)
            draw.text((x, y), name, fill="black", font_size=13)
            tile = Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.NEAREST)
            canvas.paste(tile, (x, y + label))
    return np.array(canvas)

"""``maskweave demo``: the shipped models on photos that come with scikit-image."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskweave.cli.options import Overwrite, Seed, load_model

if TYPE_CHECKING:
    import numpy as np

    from maskweave.call import StepPicture
    from maskweave.images import Hole, Pixels
    from maskweave.pipeline import InpaintPipeline

    Task = tuple[Pixels, Hole]

TASKS = ("scratches", "date", "mast", "cat")
"""What is to go from the photos: the first three by the model photos, the hole in the cat by
cats64."""

MAST = ((434, 116), (464, 116), (500, 427), (418, 427), (418, 370), (434, 360))
"""An outline around a mast and its lamps in ``skimage.data.rocket``: points from left and top."""

FACE = (75, 0, 375, 300)
"""Where the cat's face is in ``skimage.data.chelsea``: left, upper, right, lower."""

TILE = 256
"""Height that smaller pictures have on the sheet at most, in pixels."""


def demo(
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("maskweave-demo"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Take scratches, a date and a mast out of photos, and fill a hole in the face of a cat.

    Writes input, hole and result of each, every step of the cat, and a sheet of all.
    """
    import numpy as np

    from maskweave.images import covered, refuse_existing
    from maskweave.writing import write_image

    photos, cats64 = (load_model(name, "cpu", "float32") for name in ("photos", "cats64"))
    steps = range(1, cats64.defaults.last_step + 1)
    names = [f"{task}_{part}" for task in TASKS for part in ("input", "hole", "result")]
    names += [*(f"cat_step_{k:02d}" for k in steps), "sheet"]
    files = [output / f"{name}.png" for name in names]
    refuse_existing(files, overwrite)

    rng = np.random.default_rng(seed)
    damaged = _damaged(rng)
    tasks = [*damaged, _face(cats64.tokenizer.image_size[0], rng)]
    filled = [*_fill(photos, damaged, seed), *_fill(cats64, tasks[-1:], seed)]
    rows = [
        {task: photo, "hole": covered(photo, hole), "result": states[-1].image.pixels}
        for task, (photo, hole), states in zip(TASKS, tasks, filled, strict=True)
    ]
    written = [picture for row in rows for picture in row.values()]
    for k, state in zip(steps, filled[-1], strict=True):
        painted, kept = state.image.pixels, covered(state.image.pixels, state.masked)
        written.append(painted)
        rows[-1] |= {f"step {k}: predicted": painted, f"step {k}: kept": kept}
    for file, picture in zip(files, [*written, _sheet(rows)], strict=True):
        write_image(picture, file)
        typer.echo(file)


def _damaged(rng: "np.random.Generator") -> "list[Task]":
    """Return a scratched photo, one with a date on it and one with a mast, and where these are."""
    import numpy as np
    from PIL import Image, ImageDraw
    from skimage.data import chelsea, coffee, rocket

    from maskweave.holes import draw_hole

    cup, cat, launch = coffee(), chelsea(), rocket()
    scratches = draw_hole("scratch", cup.shape[0], cup.shape[1], rng)
    cup[scratches] = (238, 234, 226)
    date, mast = (Image.new("1", photo.shape[1::-1]) for photo in (cat, launch))
    ImageDraw.Draw(date).text((24, 232), "24.12.1999", fill=1, font_size=40)
    ImageDraw.Draw(mast).polygon(MAST, fill=1)
    cat[np.array(date)] = (255, 150, 40)
    return [(cup, scratches), (cat, np.array(date)), (launch, np.array(mast))]


def _face(size: int, rng: "np.random.Generator") -> "Task":
    """Return the face of a cat with a hole."""
    import numpy as np
    from PIL import Image
    from skimage.data import chelsea

    from maskweave.holes import draw_hole

    face = Image.fromarray(chelsea()).crop(FACE).resize((size, size), Image.Resampling.LANCZOS)
    return np.array(face), draw_hole("random-walk", size, size, rng)


def _fill(pipeline: "InpaintPipeline", tasks: "list[Task]", seed: int) -> "list[list[StepPicture]]":
    """Fill photos by a model's defaults and return the steps of each."""
    from maskweave.call import Photo
    from maskweave.images import as_picture

    asked = [Photo(as_picture(photo), hole, [seed]) for photo, hole in tasks]
    filled = dict(pipeline.fill(asked, pipeline.defaults, every_step=True))
    return [filled[place][0] for place in range(len(tasks))]


def _sheet(rows: "list[dict[str, Pixels]]") -> "Pixels":
    """Arrange labelled pictures in rows, small ones enlarged pixel by pixel."""
    import numpy as np
    from PIL import Image, ImageDraw

    label, gap = 22, 8
    pad = partial(np.pad, constant_values=255)
    bands: list[Pixels] = []
    for row in rows:
        tiles: list[Pixels] = []
        for name, picture in row.items():
            times = max(1, TILE // len(picture))
            large = picture.repeat(times, axis=0).repeat(times, axis=1)
            tile = Image.fromarray(pad(large, ((label, 0), (gap, gap), (0, 0))))
            ImageDraw.Draw(tile).text((gap, 2), name, fill="black", font_size=15)
            tiles.append(np.array(tile))
        bands.append(np.concatenate(tiles, axis=1))
    width = max(band.shape[1] for band in bands)
    return np.concatenate(
        [pad(band, ((0, gap), (0, width - band.shape[1]), (0, 0))) for band in bands]
    )

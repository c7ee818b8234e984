"""The call that users of diffusers know: images and masks in, filled images out."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from maskweave.errors import MaskweaveError
from maskweave.images import (
    Hole,
    Picture,
    as_list,
    as_picture,
    check_output,
    converted,
    opaque,
)
from maskweave.maskgit import DecodeSettings, Step
from maskweave.masks import Mask, as_mask, as_masks
from maskweave.progress import progress
from maskweave.seeds import draw_seeds

MEMORY = 500
"""Megabytes that photos may take while they are filled."""


class Photo(NamedTuple):
    """What is to be filled."""

    picture: Picture
    """An image, in its own depth."""
    hole: Hole
    """True where it is to be filled; of the picture's size."""
    seeds: Sequence[int]
    """The seed of each of its fills, from 0 to 2^63 - 1."""


class StepPicture(NamedTuple):
    """What the fill looks like after a step of decoding."""

    image: Any
    """The image with all tokens as predicted so far: a ``Picture``, or of the output type."""
    masked: Hole
    """Hole pixels whose tokens are predicted again in the next step."""


Filled = tuple[int, list[list[StepPicture]]]
"""The place of a photo among all, and for each of its fills the picture after each step."""


@dataclass(frozen=True)
class InpaintOutput:
    """Filled images, image by image and, for each, sample by sample."""

    images: list[Any]
    """Filled images of the output type."""
    steps: list[list[StepPicture]] | None = None
    """For every image of ``images``, its steps; None unless asked for."""
    uncertainty: list[Float[np.ndarray, "height width"]] | None = None
    """For every image that was given, the ``deviation`` of its fills; None unless asked for."""


class Pipeline(ABC):
    """Fills holes in images of any size."""

    show_progress = True

    @abstractmethod
    def settings(self, **overrides: Any) -> DecodeSettings:
        """Return the defaults with those overrides that are not None.

        Raises
        ------
        MaskweaveError
            If a setting is unknown or out of range.
        """

    @abstractmethod
    def fill(
        self,
        photos: Iterable[Photo],
        settings: DecodeSettings,
        *,
        batch_size: int = 16,
        memory: int = MEMORY,
        keep_known: bool = True,
        every_step: bool = False,
        on_step: Callable[[Step], None] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        on_note: Callable[[int, str], None] | None = None,
    ) -> Iterator[Filled]:
        """Fill photos as they come and yield each as soon as it is finished.

        Parameters
        ----------
        photos : iterable of Photo
            The next is asked for when there is room for it.
        settings : DecodeSettings
            From ``settings``.
        batch_size, memory, keep_known
            As in the call.
        every_step : bool
            Return the picture after each step, not only the last.
        on_step : callable, optional
            Told of each step of each batch.
        on_progress : callable, optional
            Told how many crops or windows are filled since it was last told, maybe none, and how
            many there are in the photos that are begun.
        on_note : callable, optional
            Told of a photo that the model is not for: its place and what there is to say. Without
            it none is looked at.
        """

    def set_progress_bar_config(self, *, disable: bool) -> None:
        """Switch the progress bar off or on, as in diffusers; it needs a terminal."""
        self.show_progress = not disable

    def __call__(
        self,
        image: Any,
        mask_image: Any = None,
        *,
        num_inference_steps: int | None = None,
        temperature: float | None = None,
        label: int | str | None = None,
        prompt: str | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        threshold: int = 128,
        grow: int = 0,
        batch_size: int = 16,
        memory: int = MEMORY,
        keep_known: bool = True,
        output_type: Literal["pil", "np", "pt"] = "pil",
        output_steps: bool = False,
        uncertainty: bool = False,
        callback_on_step_end: Callable[["Pipeline", int, int, dict[str, Any]], Any] | None = None,
        **settings: Any,
    ) -> InpaintOutput:
        """Fill the holes of one image or of a list of images.

        Parameters
        ----------
        image : PIL.Image.Image, numpy.ndarray or torch.Tensor, or a list of them
            Images of any size, in the depths that ``images.as_picture`` names. Arrays are (height,
            width, 3), tensors (3, height, width), or batches of these.
        mask_image : the same types
            White or True is the hole; of the image's size, (height, width), with or without an
            axis of one channel. Without it the transparent pixels of the image are the hole.
        num_inference_steps : int, optional
            T; the model's default otherwise, as for the other decode settings.
        temperature : float, optional
            Scale of the noise in the order of decoding.
        label : int or str, optional
            What the images show, as a number or a name of the model's labels.
        prompt : str, optional
            What they show, in words, for a model that reads them.
        guidance_scale : float, optional
            How much more than the model itself the label or the prompt decides; 1 is none.
        num_images_per_prompt : int
            Different fills of each image.
        generator : torch.Generator or a list with one for each image or for each fill
            On any device; without one every call differs. The same numbers are promised for the
            same kind of device. ``seeded(seed, name)`` gives what ``maskweave inpaint`` uses.
        threshold : int
            What is white in a mask, of 255.
        grow : int
            Pixels by which the hole is widened.
        batch_size : int
            Crops or windows that are decoded at once. Changes nothing beyond rounding.
        memory : int
            Megabytes that photos may take while they are filled. A single one is always begun.
        keep_known : bool
            Return every pixel outside the hole as it was. Otherwise those around it as painted.
        output_type : {"pil", "np", "pt"}
            PIL images, float arrays (height, width, 3) or float tensors (3, height, width) in
            [0, 1]: in a list, as images may differ in size.
        output_steps : bool
            Paint the image after every step as well.
        uncertainty : bool
            Return as well how much the fills of each image differ from pixel to pixel. It takes
            two fills at least, which ``num_images_per_prompt`` asks for; more tell it better.
        callback_on_step_end : callable, optional
            Called with the pipeline, the number of the step, how many of the T steps are left and a
            dict of ``tokens``, ``masked`` and ``confidence`` as in ``maskgit.Step``, batch by
            batch. Unlike in diffusers what it returns is not read: known tokens stay.
        **settings
            Any other field of ``DecodeSettings``, for instance ``schedule``, ``order``,
            ``token_temperature`` or ``paint``.

        Raises
        ------
        MaskweaveError
            If sizes or counts do not match or a setting is unknown or out of range.
        """
        counts = (num_images_per_prompt, batch_size, memory)
        if not all(type(n) is int and n >= 1 for n in counts):
            raise MaskweaveError(
                "num_images_per_prompt, batch_size and memory are ints of at least 1"
            )
        if output_type not in ("pil", "np", "pt"):
            raise MaskweaveError(f"output_type is pil, np or pt, got {output_type!r}")
        if uncertainty and num_images_per_prompt == 1:
            raise MaskweaveError("uncertainty takes num_images_per_prompt=2 or more")
        named = {
            "steps": num_inference_steps,
            "temperature": temperature,
            "label": label,
            "prompt": prompt,
            "guidance_scale": guidance_scale,
        }
        resolved = self.settings(**named | settings)
        pairs = _pairs(image, mask_image, threshold, grow)
        for picture, _ in pairs:
            check_output(picture, output_type)
        for note in (note for _, mask in pairs for note in mask.notes):
            warnings.warn(note, stacklevel=2)
        seeds = draw_seeds(generator, len(pairs), num_images_per_prompt)
        photos = [
            Photo(picture, mask.hole, own)
            for (picture, mask), own in zip(pairs, seeds, strict=True)
        ]
        on_step = callback_on_step_end and partial(
            _call_back, partial(callback_on_step_end, self), resolved.steps
        )
        notes: list[str] = []
        with progress(0, shown=self.show_progress) as advance:
            filled = dict(
                self.fill(
                    photos,
                    resolved,
                    batch_size=batch_size,
                    memory=memory,
                    keep_known=keep_known,
                    every_step=output_steps,
                    on_step=on_step,
                    on_progress=lambda count, total: advance(count, total=total),
                    on_note=lambda _, note: notes.append(note),
                )
            )
        for note in notes:
            warnings.warn(note, stacklevel=2)
        spread = [
            deviation([states[-1].image for states in filled[place]])
            for place in range(len(photos) if uncertainty else 0)
        ]
        steps = [
            [StepPicture(converted(one.image, output_type), one.masked) for one in states]
            for place in range(len(photos))
            for states in filled[place]
        ]
        pictures = [states[-1].image for states in steps]
        return InpaintOutput(
            pictures, steps if output_steps else None, spread if uncertainty else None
        )


def deviation(fills: Sequence[Picture]) -> Float[np.ndarray, "height width"]:
    """Return how much several fills of one image differ from pixel to pixel.

    Parameters
    ----------
    fills : sequence of Picture
        Two or more, of one size.

    Returns
    -------
    numpy.ndarray
        float32: the standard deviation over the fills, where white is 1, the mean of the three
        colours. 0 wherever all agree, as they do in known pixels.
    """
    white = np.float32(opaque(fills[0].values.dtype))
    first = fills[0].values / white  # what is less it is 0 where all agree, without rounding
    mean = sum(fill.values / white - first for fill in fills) / np.float32(len(fills))
    squares = sum(np.square(fill.values / white - first - mean) for fill in fills)
    spread = np.sqrt(squares / np.float32(len(fills) - 1))
    return spread if spread.ndim == 2 else spread.mean(axis=2)


def _pairs(images: Any, masks: Any, threshold: int, grow: int) -> list[tuple[Picture, Mask]]:
    """Read images and their masks, however they are given.

    Raises
    ------
    MaskweaveError
        If there are not as many of both, or one is none or does not fit the other.
    """
    pictures = [as_picture(image) for image in as_list(images)]
    each = as_masks(masks, len(pictures))
    if len(pictures) != len(each):
        raise MaskweaveError(f"{len(pictures)} images but {len(each)} masks")
    return [
        (picture, as_mask(mask, picture, threshold=threshold, grow=grow))
        for picture, mask in zip(pictures, each, strict=True)
    ]


def _call_back(callback: Callable[[int, int, dict[str, Any]], Any], steps: int, step: Step) -> None:
    """Tell of a step in the arguments that diffusers has."""
    tensors = {name: getattr(step, name) for name in ("tokens", "masked", "confidence")}
    callback(step.number, steps - 1 - step.number, tensors)

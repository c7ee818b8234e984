"""Maskweave's own routes: a photo and its mask in, fills out; and how the service is."""

import dataclasses
import logging
from json import JSONDecodeError
from secrets import randbelow
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response

from maskweave.images import Picture
from maskweave.masks import Mask
from maskweave.web.service import HIGHEST_SEED, MOST_FILLS, Service, Wanted, seeds_of
from maskweave.web.ticket import Filled
from maskweave.web.wire import (
    MEDIA,
    Received,
    as_base64,
    filled,
    from_base64,
    hole_of,
    received,
    written,
)

DECODING = (
    *("steps", "schedule", "order", "paint", "temperature", "token_temperature", "stop_after"),
    *("context", "levels", "label", "prompt", "guidance_scale"),
)
"""Fields of a request that are decode settings."""

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # clients are told themselves

WHITE = 128
"""What counts as white in a mask, of 255, unless told otherwise."""


class Options(BaseModel):
    """How a photo is to be filled: the options of ``maskweave inpaint``."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="One that /health lists; the first otherwise.")
    seed: Annotated[int | None, Field(ge=0, le=HIGHEST_SEED)] = Field(
        None, description="Same seed, same pictures; drawn, and told, if it is missing."
    )
    num_samples: Annotated[int, Field(ge=1, le=MOST_FILLS)] = Field(
        1, description="Different fills."
    )
    steps: int | None = Field(None, description="Decoding steps T.")
    schedule: str | None = Field(None, description="linear, cosine, square, arccos.")
    order: str | None = Field(None, description="confidence, probability, random, halton.")
    paint: str | None = Field(None, description="sampled or expected.")
    context: float | None = Field(
        None, description="Share of a window or crop on each side of what is filled from it."
    )
    levels: int | None = Field(
        None, description="Coarser levels at most, for thick holes; 0: native pixels alone."
    )
    temperature: float | None = Field(None, description="Scale of the noise in the order.")
    token_temperature: float | None = Field(None, description="At which tokens are sampled.")
    stop_after: int | None = Field(None, description="Run only so many of the steps.")
    label: int | str | None = Field(
        None, description="What the image shows: a number or a name of the model's labels."
    )
    prompt: str | None = Field(None, description="What the image shows, for models of text.")
    guidance_scale: float | None = Field(
        None, description="How much more than the model itself label or prompt decide."
    )
    invert_mask: bool = Field(False, description="Black is the hole.")
    threshold: int = Field(WHITE, description="What counts as white in a mask, of 255.")
    grow: int = Field(0, description="Pixels by which the hole is widened.")
    soften: int = Field(
        0, description="Pixels around the hole over which the fill fades into the photo."
    )
    keep_known: bool = Field(True, description="Every pixel outside the hole stays as it is.")


class FillJson(Options):
    """A request in JSON."""

    image: str = Field(description="The photo: base64 or a data URL.")
    mask: str | None = Field(
        None,
        description="White is the hole; of the photo's size. Without it transparent pixels are.",
    )


class FillForm(Options):
    """A request in a form."""

    image: bytes = Field(description="The photo, a file.")
    mask: bytes | None = Field(None, description="The mask, a file.")


class FillAnswer(BaseModel):
    """Fills in JSON."""

    images: list[str]
    """PNG files, in base64."""
    seed: int
    """What the same request gives the same fills with."""
    seeds: list[int]
    """The seed of each fill, drawn from it."""
    model: str
    """The model that filled."""
    settings: dict[str, Any]
    """How it decoded."""
    notes: list[str]
    """What a user should be told of the mask and the photo."""


class Health(BaseModel):
    """How the service is."""

    status: str
    version: str
    models: list[str]
    """Those to choose from; the first is the default."""
    waiting: int
    """Fills that wait for the one that runs."""
    queue: int
    """How many may."""
    max_pixels: int
    """Pixels that a photo may have."""


class _Made(NamedTuple):
    """Fills, and how they came about."""

    result: Filled
    seed: int
    seeds: list[int]
    notes: list[str]
    version: str


def fill_routes(service: Service) -> APIRouter:
    """Return ``POST /v1/fill`` and ``GET /health`` over a service."""
    router = APIRouter(tags=["Maskweave"])

    @router.post("/v1/fill", openapi_extra=_bodies(), response_model=FillAnswer)
    async def fill(request: Request) -> Response:
        """Fill the hole of a photo.

        The answer is an image of the type that ``Accept`` asks for, PNG if it does not say, with
        the seed in the header X-Seed; or JSON. Several fills are JSON.
        """
        asked = await _read(request)
        kind = _accepted(request.headers.get("accept", ""), asked.num_samples)
        seed = randbelow(HIGHEST_SEED) if asked.seed is None else asked.seed
        seeds = seeds_of(seed, asked.num_samples)
        sources: list[Received] = []
        notes: list[str] = []

        def read() -> Wanted:
            photo = received(_bytes(asked.image, "image"), "the image", service)
            mask = _mask(asked, photo, service)
            sources.append(photo)
            notes.extend(mask.notes)
            settings = {name: getattr(asked, name) for name in DECODING}
            return Wanted(
                picture=photo.picture,
                hole=mask.hole,
                seeds=seeds,
                model=asked.model,
                settings=settings,
                keep_known=asked.keep_known,
                soften=asked.soften,
            )

        result = await filled(request, service, read)
        made = _Made(result, seed, seeds, notes, request.app.version)
        return await run_in_threadpool(_answer, asked, made, kind, sources[0])

    @router.get("/health")
    def health(request: Request) -> Health:
        """Tell that the service is there, what it offers and how many wait."""
        return Health(
            status="ok",
            version=request.app.version,
            models=list(service.models),
            waiting=service.waiting,
            queue=service.queue,
            max_pixels=service.max_pixels,
        )

    return router


async def _read(request: Request) -> FillJson | FillForm:
    """Read a request in JSON or in a form.

    Raises
    ------
    HTTPException, RequestValidationError
        If it is neither or its fields do not fit.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if media == "application/json":
            return FillJson.model_validate(await request.json())
        if media == "multipart/form-data":
            async with request.form(max_files=2, max_fields=len(FillForm.model_fields)) as form:
                return FillForm.model_validate(
                    {
                        name: await value.read() if isinstance(value, UploadFile) else value
                        for name, value in form.multi_items()
                    }
                )
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False)) from error
    except (JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"the body is no valid JSON: {error}") from error
    except ValueError as error:  # of Python, which advises how to allow it
        raise HTTPException(400, "a number has too many digits") from error
    raise HTTPException(415, "a request is application/json or multipart/form-data")


def _bytes(content: str | bytes, name: str) -> bytes:
    return from_base64(content, f"the {name}") if isinstance(content, str) else content


def _mask(asked: FillJson | FillForm, photo: Received, service: Service) -> Mask:
    mask = None
    if asked.mask:
        mask = received(_bytes(asked.mask, "mask"), "the mask", service).picture
    return hole_of(
        mask,
        photo.picture,
        invert=asked.invert_mask,
        threshold=asked.threshold,
        grow=asked.grow,
    )


def _accepted(accept: str, number: int) -> str:
    """Return the format of an answer, or JSON.

    Raises
    ------
    HTTPException
        If there is none that the client accepts.
    """
    ranges: list[tuple[float, str]] = []
    for each in filter(None, map(str.strip, (accept or "*/*").lower().split(","))):
        media, *parameters = (part.strip() for part in each.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        known = quality.isascii() and quality.replace(".", "", 1).isdigit()
        ranges.append((float(quality) if known else 0, media))
    kinds = {"application/json": "JSON", "application/*": "JSON"}
    if number == 1:
        kinds = {media: kind for kind, media in MEDIA.items()} | kinds
        kinds |= {"*/*": "PNG", "image/*": "PNG"}
    kinds.setdefault("*/*", "JSON")
    for quality, media in sorted(ranges, key=lambda each: -each[0]):
        if quality and media in kinds:
            return kinds[media]
    several = "several fills are application/json" if number > 1 else ", ".join(kinds)
    raise HTTPException(406, f"nothing that Accept asks for is there: {several}")


def _answer(asked: Options, made: _Made, kind: str, source: Received) -> Response:
    pictures = _noted(asked, made) if kind in ("PNG", "JSON") else _pictures(made)
    if kind != "JSON":
        content = written(pictures[0], kind, source)
        return Response(content, headers={"X-Seed": str(made.seed)}, media_type=MEDIA[kind])
    answer = FillAnswer(
        images=[as_base64(written(each, "PNG")) for each in pictures],
        seed=made.seed,
        seeds=made.seeds,
        model=made.result.model,
        settings=dataclasses.asdict(made.result.settings),
        notes=[*made.notes, *made.result.notes],
    )
    return JSONResponse(answer.model_dump())


def _pictures(made: _Made) -> list[Picture]:
    return [steps[-1].image for steps in made.result.fills]


def _noted(asked: Options, made: _Made) -> list[Picture]:
    """Return the fills, each with what ``maskweave inpaint --from`` repeats it by.

    That takes the mask as it is and keeps known pixels: otherwise there is no recipe.
    """
    altered = asked.invert_mask or asked.grow or asked.threshold != WHITE
    if altered or not asked.keep_known:
        return _pictures(made)
    return [
        made.result.recipe(made.seed, made.seeds, fill, asked.soften, made.version).noted(picture)
        for fill, picture in enumerate(_pictures(made))
    ]


def _bodies() -> dict[str, Any]:
    """Return what OpenAPI says of the two bodies, which are not read by FastAPI."""
    form = FillForm.model_json_schema()
    content = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": FillJson.model_json_schema()},
    }
    return {"requestBody": {"required": True, "content": content}}

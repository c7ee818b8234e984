"""The routes of AUTOMATIC1111's web UI that its clients need to fill holes.

``img2img`` with a mask fills a hole; what else is asked for is ignored, and ``info`` says so where
it matters. Lists that clients ask for at their start are there.
"""

import json
from secrets import randbelow
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field, model_validator
from starlette.concurrency import run_in_threadpool

from maskweave.orders import ORDERS
from maskweave.web.service import MOST_FILLS, SOFTEST, Service, Wanted, seeds_of
from maskweave.web.sizes import resized
from maskweave.web.ticket import Filled
from maskweave.web.wire import as_base64, filled, from_base64, hole_of, received, written

HIGHEST_RANDOM = 2**32 - 1
"""Largest seed that is drawn, as there."""

NOTHING = (
    *("upscalers", "latent-upscale-modes", "sd-vae", "loras", "hypernetworks"),
    *("schedulers", "prompt-styles"),
)
"""Lists that are empty here."""

PROMPT = "the prompt is ignored: this model fills holes from what is around them"


class Overrides(BaseModel):
    """What is read of settings for one request; others are ignored."""

    sd_model_checkpoint: str | None = None


class Img2ImgRequest(BaseModel):
    """What is read of a request; other fields are ignored."""

    init_images: Annotated[list[str], Field(min_length=1, max_length=1)] = Field(
        description="The photo: base64 or a data URL."
    )
    mask: str | None = Field(
        None, description="White is the hole. Without it transparent pixels of the photo are."
    )
    mask_blur: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Pixels around the hole over which the fill fades into the photo."
    )
    inpainting_mask_invert: Annotated[int, Field(ge=0, le=1)] = Field(
        0, description="1: black is the hole."
    )
    inpaint_full_res: bool = Field(
        True,
        description="The answer has the photo's size; otherwise width and height, if given.",
    )
    inpaint_full_res_padding: int | None = Field(
        None, description="Ignored: a model takes the context that it was trained with."
    )
    resize_mode: Annotated[int, Field(ge=0, le=3)] = Field(
        0, description="How a photo gets another size: 1 crops it, 2 adds borders."
    )
    width: Annotated[int, Field(ge=1)] | None = None
    height: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-1, lt=2**62)] = Field(-1, description="-1 draws one.")
    batch_size: Annotated[int, Field(ge=1, le=MOST_FILLS)] = Field(
        1, description="Fills, of seeds that follow each other."
    )
    n_iter: Annotated[int, Field(ge=1, le=MOST_FILLS)] = Field(1, description="Times as many.")
    prompt: str | None = Field("", description="Ignored.")
    negative_prompt: str | None = Field("", description="Ignored.")
    override_settings: Overrides = Field(
        Overrides(), description="sd_model_checkpoint names a model, if it is one of sd-models."
    )
    include_init_images: bool = Field(
        False, description="Whether parameters repeat the photo and the mask."
    )
    send_images: bool = True

    @model_validator(mode="before")
    @classmethod
    def _given(cls, values: Any) -> Any:
        """Leave out what is null, which stands for the default there."""
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the answer; None takes the photo's."""
        if self.inpaint_full_res or self.width is None or self.height is None:
            return None
        return self.width, self.height


class Img2ImgAnswer(BaseModel):
    """Fills."""

    images: list[str]
    """PNG files, in base64."""
    parameters: dict[str, Any]
    """What was asked for, as far as it was read."""
    info: str
    """How it was filled: a JSON object."""


def automatic1111_routes(service: Service) -> APIRouter:
    """Return AUTOMATIC1111's routes over a service."""
    router = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"])

    @router.post("/img2img")
    async def img2img(request: Request, asked: Img2ImgRequest) -> Img2ImgAnswer:
        """Fill the hole of a photo."""
        number = asked.batch_size * asked.n_iter
        first = randbelow(HIGHEST_RANDOM) if asked.seed == -1 else asked.seed
        seeds = [first + i for i in range(number)]
        notes: list[str] = []

        def read() -> Wanted:
            return _wanted(asked, service, seeds, notes)

        result = await filled(request, service, read)
        return await run_in_threadpool(_answer, asked, result, seeds, notes)

    _tell(router, service)
    return router


def _tell(router: APIRouter, service: Service) -> None:
    """Add what clients ask for at their start and while they wait."""

    @router.get("/sd-models")
    def sd_models() -> list[dict[str, Any]]:
        """List the models."""
        nothing = {"hash": None, "sha256": None, "config": None}
        return [
            {"title": name, "model_name": name, "filename": name} | nothing
            for name in service.models
        ]

    @router.get("/options")
    def options() -> dict[str, Any]:
        """Tell which model fills."""
        return {"sd_model_checkpoint": service.model, "samples_format": "png"}

    @router.post("/options")
    def set_options(wanted: dict[str, Any]) -> None:
        """Change nothing: a model is chosen for each request."""
        if wanted.get("sd_model_checkpoint") not in (None, service.model):
            raise HTTPException(400, "a model is chosen by override_settings of a request")

    @router.get("/samplers")
    def samplers() -> list[dict[str, Any]]:
        """List the orders of decoding."""
        return [{"name": name, "aliases": [], "options": {}} for name in ORDERS]

    @router.get("/progress")
    def progress() -> dict[str, Any]:
        """Tell how far the fill that runs is."""
        running = service.running
        state = {
            "job": "fill" if running else "",
            "job_count": service.waiting + (running is not None),
            "job_no": 0,
            "sampling_step": running.progress.step if running else 0,
            "sampling_steps": running.progress.steps if running else 0,
            "interrupted": False,
            "skipped": False,
        }
        share = running.progress.share if running else 0.0
        nothing = {"eta_relative": 0.0, "current_image": None, "textinfo": None}
        return {"progress": share, "state": state} | nothing

    @router.get("/scripts")
    def scripts() -> dict[str, list[str]]:
        """List no scripts."""
        return {"txt2img": [], "img2img": []}

    @router.get("/cmd-flags")
    def flags() -> dict[str, Any]:
        """List no flags."""
        return {}

    def nothing() -> list[str]:
        """List nothing."""
        return []

    for name in NOTHING:
        router.add_api_route(f"/{name}", nothing, include_in_schema=False)


def _wanted(asked: Img2ImgRequest, service: Service, seeds: list[int], notes: list[str]) -> Wanted:
    if (size := asked.size) is not None:
        service.check_size(*size)
    photo = received(from_base64(asked.init_images[0], "init_images[0]"), "the image", service)
    mask = None
    if asked.mask:
        mask = received(from_base64(asked.mask, "mask"), "the mask", service).picture
        if mask.shape != photo.picture.shape:
            mask = resized(mask, *photo.picture.shape)
    read = hole_of(mask, photo.picture, invert=bool(asked.inpainting_mask_invert))
    notes.extend(read.notes)
    return Wanted(
        picture=photo.picture,
        hole=read.hole,
        seeds=[seed for each in seeds for seed in seeds_of(each, 1)],
        model=asked.override_settings.sd_model_checkpoint,
        soften=min(asked.mask_blur or 0, SOFTEST),
    )


def _answer(
    asked: Img2ImgRequest, result: Filled, seeds: list[int], notes: list[str]
) -> Img2ImgAnswer:
    pictures = [steps[-1].image for steps in result.fills]
    if (size := asked.size) is not None:
        pictures = [resized(each, size[1], size[0], asked.resize_mode) for each in pictures]
    height, width = pictures[0].shape
    if asked.prompt or asked.negative_prompt:
        notes.append(PROMPT)
    decoding = result.settings
    text = f"Steps: {decoding.steps}, Size: {width}x{height}, Model: {result.model}"
    info = {
        "prompt": asked.prompt or "",
        "negative_prompt": asked.negative_prompt or "",
        "seed": seeds[0],
        "all_seeds": seeds,
        "width": width,
        "height": height,
        "sampler_name": decoding.order,
        "steps": decoding.steps,
        "batch_size": asked.batch_size,
        "sd_model_name": result.model,
        "index_of_first_image": 0,
        "infotexts": [f"{text}, Seed: {seed}" for seed in seeds],
        "notes": [*notes, *result.notes],
    }
    hidden = set() if asked.include_init_images else {"init_images", "mask"}
    return Img2ImgAnswer(
        images=[as_base64(written(each, "PNG")) for each in pictures if asked.send_images],
        parameters=asked.model_dump(exclude=hidden),
        info=json.dumps(info),
    )

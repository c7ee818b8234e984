"""The routes of IOPaint that its clients need to fill holes.

Fields, types and defaults are those of IOPaint 1.6. What means nothing here is accepted and
ignored. The mask lies exactly on the photo, and nothing outside it changes unless
``sd_keep_unmasked_area`` is false.
"""

from secrets import randbelow
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from maskweave.images import Picture
from maskweave.maskgit import MOST_STEPS
from maskweave.masks import as_mask, grown
from maskweave.orders import ORDERS
from maskweave.web.service import HIGHEST_SEED, SOFTEST, Service, Wanted, seeds_of
from maskweave.web.wire import (
    MEDIA,
    Received,
    filled,
    from_base64,
    hole_of,
    received,
    writable,
    written,
)

HIGHEST_RANDOM = 99_999_999
"""Largest seed that is drawn, as there."""

OPENCV = {"INPAINT_NS": "navier-stokes", "INPAINT_TELEA": "telea"}
"""Methods by the names of OpenCV's flags."""


BRUSH = (255, 203, 0, 186)
"""The colour and alpha with which its clients show a mask."""


class InpaintRequest(BaseModel):
    """What is read of a request; other fields are ignored."""

    image: str = Field(description="The photo: base64 or a data URL.")
    mask: str | None = Field(
        None, description="The mask, of the photo's size: more than 127 is the hole."
    )
    sd_seed: Annotated[int, Field(ge=-1, le=HIGHEST_SEED)] = Field(42, description="-1 draws one.")
    sd_steps: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Decoding steps T; the model's own if it is missing."
    )
    sd_sampler: str | None = Field(None, description="One that /api/v1/samplers lists.")
    sd_keep_unmasked_area: bool = Field(
        True, description="Every pixel outside the hole stays as it is."
    )
    sd_mask_blur: Annotated[int, Field(ge=0)] = Field(
        11,
        description="If the area need not be kept: pixels over which the fill fades into it.",
    )
    cv2_flag: Literal["INPAINT_NS", "INPAINT_TELEA"] | None = Field(
        None, description="Which of OpenCV's methods fills, if the model is one of them."
    )
    hd_strategy: str | None = Field(None, description="Ignored: photos of any size are filled.")


class AdjustMaskRequest(BaseModel):
    """How a mask is to be changed."""

    mask: str = Field(description="base64 or a data URL.")
    operate: Literal["expand", "shrink", "reverse"]
    kernel_size: Annotated[int, Field(ge=1, le=1000)] = Field(5, description="In pixels.")


def iopaint_routes(service: Service) -> APIRouter:
    """Return IOPaint's routes over a service."""
    router = APIRouter(prefix="/api/v1", tags=["IOPaint"])

    @router.post("/inpaint", response_class=Response)
    async def inpaint(request: Request, asked: InpaintRequest) -> Response:
        """Fill the hole of a photo; the answer is an image in the photo's own format."""
        seed = 1 + randbelow(HIGHEST_RANDOM) if asked.sd_seed == -1 else asked.sd_seed
        sources: list[Received] = []

        def read() -> Wanted:
            photo = received(from_base64(asked.image, "the image"), "the image", service)
            sources.append(photo)
            mask = None
            if asked.mask:
                mask = received(from_base64(asked.mask, "the mask"), "the mask", service).picture
            hole = hole_of(mask, photo.picture).hole
            return _wanted(asked, service, photo.picture, hole, seed)

        result = await filled(request, service, read)
        [steps] = result.fills
        picture, source = steps[-1].image, sources[0]
        kind = source.kind if writable(picture, source.kind) else "PNG"
        content = await run_in_threadpool(written, picture, kind, source)
        return Response(content, headers={"X-Seed": str(seed)}, media_type=MEDIA[kind])

    @router.post("/adjust_mask", response_class=Response)
    def adjust_mask(asked: AdjustMaskRequest) -> Response:
        """Widen, narrow or turn round a mask; the answer is a PNG, painted in the hole."""
        with service.reading:
            return Response(_adjusted(asked, service), media_type="image/png")

    _tell(router, service)
    return router


def _tell(router: APIRouter, service: Service) -> None:
    """Add what clients ask for at their start."""

    @router.get("/model")
    def model() -> dict[str, Any]:
        """Tell which model fills."""
        return _about(service.model)

    @router.get("/server-config")
    def server_config() -> dict[str, Any]:
        """Tell what is there: the model, and no plugins."""
        return {
            "plugins": [],
            "modelInfos": [_about(service.model)],
            "removeBGModel": "",
            "removeBGModels": [],
            "realesrganModel": "",
            "realesrganModels": [],
            "interactiveSegModel": "",
            "interactiveSegModels": [],
            "enableFileManager": False,
            "enableAutoSaving": False,
            "enableControlnet": False,
            "controlnetMethod": None,
            "disableModelSwitch": True,
            "isDesktop": False,
            "samplers": [*ORDERS],
        }

    @router.get("/samplers")
    @router.post("/samplers", include_in_schema=False)  # as its page asks for them
    def samplers() -> list[str]:
        """List the orders of decoding."""
        return [*ORDERS]


def _adjusted(asked: AdjustMaskRequest, service: Service) -> bytes:
    """Return a mask as its clients show it, widened, narrowed or turned round."""
    mask = received(from_base64(asked.mask, "the mask"), "the mask", service).picture
    hole = as_mask(mask, mask).hole
    if asked.operate == "expand":
        hole = grown(hole, asked.kernel_size)
    elif asked.operate == "shrink":
        hole = ~grown(~hole, asked.kernel_size)
    else:
        hole = ~hole
    colours = np.where(hole[:, :, None], np.array(BRUSH[:3], dtype=np.uint8), np.uint8(0))
    alpha = np.where(hole, np.uint8(BRUSH[3]), np.uint8(0))
    return written(Picture(colours, alpha), "PNG")


def _wanted(
    asked: InpaintRequest, service: Service, picture: Picture, hole: np.ndarray, seed: int
) -> Wanted:
    model = service.model
    if model in OPENCV.values() and not service.decodes() and asked.cv2_flag:
        model = OPENCV[asked.cv2_flag]
    settings: dict[str, Any] = {}
    if service.decodes():
        order = asked.sd_sampler if asked.sd_sampler in ORDERS else None
        settings = {"steps": asked.sd_steps and min(asked.sd_steps, MOST_STEPS), "order": order}
    fades = 0 if asked.sd_keep_unmasked_area else min(asked.sd_mask_blur, SOFTEST)
    return Wanted(
        picture=picture,
        hole=hole,
        seeds=seeds_of(seed, 1),
        model=model,
        settings=settings,
        keep_known=asked.sd_keep_unmasked_area or fades > 0,
        soften=fades,
    )


def _about(model: str) -> dict[str, Any]:
    """Return what a client is told of a model."""
    abilities = ("strength", "outpainting", "lcm_lora", "controlnet", "brushnet", "powerpaint_v2")
    return {
        "name": model,
        "path": model,
        "model_type": "inpaint",
        "is_single_file_diffusers": False,
        "need_prompt": False,
        "controlnets": [],
        "brushnets": [],
    } | {f"support_{ability}": False for ability in abilities}

"""The controls of the page, each with its label."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from maskweave.maskgit import MOST_CONTEXT
from maskweave.orders import ORDERS
from maskweave.schedules import SCHEDULES
from maskweave.web.service import MOST_FILLS, SOFTEST, Service
from maskweave.web.session import SAMPLE_SIZE
from maskweave.web.views import MARK, OPACITY

LARGEST_EXACT = 2**53 - 1
"""Largest whole number that browsers know exactly: the seed goes up to it."""

BRUSH = 18
"""Radius of the brush at first, in pixels of the photo."""

EMPTY = """<div id="empty"><p><strong>Brush over what should go, then press Fill.</strong></p>
<p>The cat has a stroke on it already. Or open, drop or paste a photo of your own. Beside it are
brush, eraser and the size of both.</p></div>"""

PAINTS = [("sampled: several", "sampled"), ("expected: one", "expected")]

BOX = ("Left", "Top", "Width", "Height")


@dataclass(frozen=True)
class Parts:
    """All controls that do or show something."""

    begin: gr.Button
    """Hidden: pressed by the page's script when the editor is ready."""
    editor: gr.ImageEditor
    """Photo and mask."""
    marked: gr.File
    """Hidden: what is painted in ``editor``, as it was when a button was pressed."""
    shown: gr.File
    """Hidden: photo and mask that ``editor`` is to show."""
    shown_by: gr.JSON
    """Hidden: how it shows them."""
    shape: gr.HTML
    """Hidden: tells the style sheet the photo's width over its height."""
    open_photo: gr.UploadButton
    open_mask: gr.UploadButton
    save_mask: gr.Button
    fill: gr.Button
    cancel: gr.Button
    """In the place of ``fill`` while a fill waits or runs."""
    status: gr.HTML
    """How far a fill is, what went wrong, what there is to say."""
    empty: gr.HTML
    """Shown until there are fills."""
    results: gr.Column
    """Shown from then on."""
    gallery: gr.Gallery
    slider: gr.ImageSlider
    step: gr.Slider
    play: gr.Button
    settled: gr.Image
    predicted: gr.Image
    step_note: gr.Markdown
    spread: gr.Image
    """Map of uncertainty."""
    spread_note: gr.Markdown
    save: gr.Button
    go_on: gr.Button
    again: gr.Button
    file: gr.DownloadButton
    """Hidden: holds what the browser fetches."""
    box: list[gr.Number]
    """Left, top, width and height in pixels."""
    add_box: gr.Button
    cut_box: gr.Button
    clear: gr.Button
    grow: gr.Slider
    widen: gr.Button
    number: gr.Slider
    model: gr.Dropdown
    seed: gr.Number
    dice: gr.Button
    steps: gr.Slider
    order: gr.Dropdown
    paint: gr.Radio
    temperature: gr.Slider
    token_temperature: gr.Slider
    schedule: gr.Dropdown
    context: gr.Slider
    levels: gr.Number
    soften: gr.Slider

    def decoding(self) -> dict[str, Any]:
        """Return the controls of decode settings, by the names of these."""
        names = ("steps", "order", "paint", "temperature", "token_temperature", "schedule")
        return {name: getattr(self, name) for name in (*names, "context", "levels")}


def make_parts(service: Service) -> Parts:
    """Lay out the controls in three groups: photo, fills, settings."""
    with gr.Column(elem_id="photo-side"):
        photo = _photo()
    with gr.Column(elem_id="fills-side"):
        fills = _fills()
    with gr.Column(elem_id="settings-side"):
        settings = _settings(service) | _mask() | _more(service)
    return Parts(**photo, **fills, **settings)


def brush(size: int) -> gr.Brush:
    """Return the brush, of a radius in pixels of the photo."""
    colour = f"rgb({MARK[0]}, {MARK[1]}, {MARK[2]})", OPACITY / 255
    return gr.Brush(size, [colour], colour, "fixed")


def _photo() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Row(elem_classes=["buttons", "four"]):
        parts["open_photo"] = _upload("Open photo", "open-photo")
        parts["open_mask"] = _upload("Open mask", "open-mask")
        parts["save_mask"] = gr.Button("Download mask", size="sm", elem_id="save-mask")
        parts["clear"] = gr.Button("Clear mask", size="sm", elem_id="clear-mask")
    parts["editor"] = gr.ImageEditor(
        label="Photo and mask",
        type="pil",
        format="png",
        sources=(),
        transforms=(),
        layers=False,
        canvas_size=SAMPLE_SIZE,  # masks that it is shown land elsewhere on another
        brush=brush(BRUSH),
        eraser=gr.Eraser(BRUSH),
        buttons=[],
        interactive=True,
        elem_id="editor",
    )
    parts["fill"] = gr.Button("Fill", variant="primary", elem_id="fill")
    parts["cancel"] = gr.Button("Cancel", visible=False, elem_id="cancel")
    parts["status"] = gr.HTML(elem_id="status")
    with gr.Row(elem_classes="gone"):
        parts["marked"] = gr.File(type="binary", label="Marked")
        parts["shown"] = gr.File(file_count="multiple", label="Shown")
        parts["shown_by"] = gr.JSON(label="Shown by")
        parts["shape"] = gr.HTML()
        parts["begin"] = gr.Button("Begin", elem_id="begin")
        parts["file"] = gr.DownloadButton("File")
    return parts


def _upload(label: str, name: str) -> gr.UploadButton:
    return gr.UploadButton(label, file_types=["image"], size="sm", elem_id=name)


def _fills() -> dict[str, Any]:
    parts: dict[str, Any] = {"empty": gr.HTML(EMPTY)}
    with gr.Column(visible=False) as parts["results"]:
        parts["gallery"] = gr.Gallery(
            label="Fills: choose one",
            columns=4,
            height="auto",
            allow_preview=False,
            format="png",
            interactive=False,
            object_fit="contain",
            buttons=[],
            elem_id="gallery",
        )
        with gr.Tab("Compare"):
            parts["slider"] = gr.ImageSlider(
                label="Before and after",
                format="png",
                interactive=False,
                buttons=["fullscreen"],
                max_height=520,
                elem_id="before-after",
            )
        with gr.Tab("Steps"):
            parts |= _decoding()
        with gr.Tab("Uncertainty"):
            parts["spread"] = _image("Where fills differ", "uncertainty")
            parts["spread_note"] = gr.Markdown(elem_classes="note")
        with gr.Row(elem_classes="buttons"):
            parts["save"] = gr.Button("Download", variant="primary", size="md", elem_id="save")
            parts["go_on"] = gr.Button("Paint on this fill", size="md", elem_id="go-on")
            parts["again"] = gr.Button("Another seed", size="md", elem_id="again")
    return parts


def _decoding() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Row(elem_classes="beside"):
        parts["step"] = _slider(1, 2, 1, "After step", elem_id="step", buttons=[])
        parts["play"] = gr.Button("Play", size="md", elem_id="play")
    with gr.Row(elem_classes="two"):
        parts["settled"] = _image("Settled", "settled")
        parts["predicted"] = _image("Predicted", "predicted")
    parts["step_note"] = gr.Markdown(elem_classes="note")
    return parts


def _image(label: str, name: str) -> gr.Image:
    return gr.Image(label=label, format="png", interactive=False, buttons=[], elem_id=name)


def _slider(lowest: int, highest: float, value: float, label: str, **options: Any) -> gr.Slider:
    options = {"step": 1, "interactive": True} | options
    return gr.Slider(lowest, highest, value=value, label=label, **options)


def _settings(service: Service) -> dict[str, Any]:
    own, decodes = service.defaults(), service.decodes()
    parts: dict[str, Any] = {}
    with gr.Row(elem_classes="pair"):
        parts["number"] = _slider(1, MOST_FILLS, 4, "Number of fills", elem_id="number")
        parts["model"] = gr.Dropdown(
            list(service.models), value=service.model, label="Model", elem_id="model"
        )
        parts["steps"] = _slider(1, 32, own.steps, "Steps", interactive=decodes, elem_id="steps")
        parts["temperature"] = _slider(
            0, 10, own.temperature, "Temperature", step=0.1, interactive=decodes
        )
        parts["paint"] = gr.Dropdown(
            PAINTS, value=own.paint, label="Paint", interactive=decodes, elem_id="paint"
        )
        parts["order"] = gr.Dropdown(
            list(ORDERS), value=own.order, label="Order", interactive=decodes
        )
    with gr.Row(elem_classes="beside"):
        parts["seed"] = gr.Number(
            0,
            precision=0,
            minimum=0,
            maximum=LARGEST_EXACT,
            label="Seed: the same gives the same fills",
            elem_id="seed",
        )
        parts["dice"] = gr.Button("Roll dice", size="md", elem_id="dice")
    return parts


def _mask() -> dict[str, Any]:
    parts: dict[str, Any] = {}
    with gr.Accordion("Mask by numbers", open=False, elem_id="by-numbers"):
        with gr.Row(elem_classes="numbers"):
            parts["box"] = [
                gr.Number(0, precision=0, label=f"{name}, pixels", elem_id=f"box-{name.lower()}")
                for name in BOX
            ]
        with gr.Row(elem_classes="buttons"):
            parts["add_box"] = gr.Button("Add box", size="md", elem_id="add-box")
            parts["cut_box"] = gr.Button("Take box away", size="md", elem_id="cut-box")
        with gr.Row(elem_classes="beside"):
            parts["grow"] = _slider(1, 64, 4, "Pixels to widen the mask by")
            parts["widen"] = gr.Button("Widen mask", size="md", elem_id="widen")
    return parts


def _more(service: Service) -> dict[str, Any]:
    own, decodes = service.defaults(), service.decodes()
    with gr.Accordion("More", open=False, elem_id="more"):
        return {
            "soften": _slider(
                0, SOFTEST, 0, "Soften: pixels beside the mask that fade into the photo"
            ),
            "token_temperature": _slider(
                0,
                2,
                own.token_temperature,
                "Temperature of tokens: low is safe, high is lively",
                step=0.05,
                interactive=decodes,
            ),
            "schedule": gr.Dropdown(
                list(SCHEDULES),
                value=own.schedule,
                label="Schedule: how many tokens each step settles",
                interactive=decodes,
            ),
            "context": _slider(
                0,
                MOST_CONTEXT,
                own.context,
                "Context: share of a window or crop on each side of what it fills",
                step=0.05,
                interactive=decodes,
            ),
            "levels": gr.Number(
                own.levels,
                precision=0,
                minimum=0,
                label="Coarser levels at most: empty is as many as the hole needs",
                interactive=service.has_levels(),
                elem_id="levels",
            ),
        }

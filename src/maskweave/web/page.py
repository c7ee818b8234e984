"""The page: a photo to paint on, a button, and fills to choose from; ``acts`` has what they do."""

import asyncio
import atexit
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio looks

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils
from gradio.themes import Default

from maskweave.web.acts import Acts
from maskweave.web.parts import Parts, make_parts
from maskweave.web.service import Service

HERE = Path(__file__).parent

EVENTS = 64
"""Clicks of all visitors that may wait; fills wait in the service's own line."""

KEPT = 3600
"""Seconds after which a file goes whose page is still open: it is in the browser by then."""

FETCH = """file => {
  if (!file) return;  // the status says why
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.path.split(/[\\\\/]/).pop();
  link.click();
}"""
"""Lets the browser fetch a file."""

# Acts neither read nor set the editor: at each word of the server to any control Gradio asks those
# of earlier acts for what they hold, and the editor would send photo and mask again and again.
SHOW = """([background, mask], by) =>
  ({ __type__: "update", ...by, value: { background, layers: [mask], composite: null } })"""
"""Shows a photo and its mask in the editor."""

MARKED = "(value) => value.layers[0] ?? null"
"""Takes from the editor what is painted there."""

SHOW_PHOTO = """() => document.getElementById("editor").scrollIntoView({ block: "nearest" })"""
"""Shows the photo where the page is too long for it and the fills."""

TITLE = """<div id="title"><h1>Maskweave</h1>
<p>Brush over what should go, press Fill, choose. All else stays as it is, pixel by pixel.</p></div>
"""


KEPT_PHOTOS = """<p role="note">This server keeps the photo and the mask of each fill that is
downloaded.</p>"""


def mount_page(app: FastAPI, service: Service, version: str) -> FastAPI:
    """Show the page at the root of an application.

    Parameters
    ----------
    app : FastAPI
        It has its routes already.
    service : Service
        What fills.
    version : str
        That of the package, which downloads tell.
    """
    fonts = ["system-ui", "sans-serif"]  # names of the browser's own, so that none is fetched
    theme = Default(primary_hue="violet", neutral_hue="zinc", font=fonts, font_mono=["monospace"])

    async def mounted() -> FastAPI:
        return gr.mount_gradio_app(
            app,
            page(service, version),
            path="/",
            theme=theme,
            css_paths=HERE / "page.css",
            js=(HERE / "page.js").read_text(),
            footer_links=[],
            run_history=False,
            show_error=True,
            ssr_mode=False,
            mcp_server=False,
        )

    return asyncio.run(mounted())  # outside a loop Gradio makes one for each lock, and leaves it


def page(service: Service, version: str) -> gr.Blocks:
    """Return the page over a service."""
    folder = _own_folder()
    with gr.Blocks(
        title="Maskweave", analytics_enabled=False, fill_width=True, delete_cache=(60, KEPT)
    ) as blocks:
        gr.HTML(TITLE if service.record is None else TITLE + KEPT_PHOTOS)
        with gr.Row(elem_id="desk"):
            parts = make_parts(service)
        wire(blocks, parts, Acts(service, version, parts, folder))
    # Gradio would take any file of this machine, and any address, for a file that was uploaded.
    blocks.has_launched = True
    processing_utils.async_ssrf_protected_download = _fetch_nothing
    return blocks.queue(max_size=EVENTS)


def wire(blocks: gr.Blocks, parts: Parts, acts: Acts) -> None:
    """Let controls act."""

    def on(event: Any, act: Any, inputs: Any, outputs: Any, **options: Any) -> Any:
        options = {"api_visibility": "private", "show_progress": "hidden"} | options
        return event(act, inputs, outputs, **options)

    def on_marked(event: Any, act: Any, inputs: Any, outputs: Any, **options: Any) -> Any:
        taken = on(event, None, parts.editor, parts.marked, js=MARKED)
        return on(taken.then, act, [parts.marked, *inputs], outputs, **options)

    drawn, status = [parts.shown, parts.shown_by, parts.status, parts.shape], [parts.status]
    on(parts.shown.change, None, [parts.shown, parts.shown_by], parts.editor, js=SHOW)
    on(parts.begin.click, acts.begin, None, drawn)
    blocks.unload(acts.end)
    fills = [parts.empty, parts.results]
    on(parts.open_photo.upload, acts.open_photo, parts.open_photo, [*drawn, *fills])
    on(parts.open_mask.upload, acts.open_mask, parts.open_mask, drawn)
    written = on_marked(parts.save_mask.click, acts.save_mask, [], [parts.file, *status])
    on(written.then, None, parts.file, None, js=FETCH)
    on_marked(parts.add_box.click, acts.add_box, parts.box, drawn)
    on_marked(parts.cut_box.click, acts.cut_box, parts.box, drawn)
    on_marked(parts.widen.click, acts.widen, [parts.grow], drawn)
    on(parts.clear.click, acts.clear, None, drawn)
    on(parts.editor.clear, acts.clear, None, drawn)
    decoding = list(parts.decoding().values())
    on(parts.model.input, acts.choose_model, parts.model, [*decoding, *status])
    on(parts.dice.click, acts.dice, None, parts.seed, queue=False)

    wanted = [parts.number, parts.model, parts.seed, parts.soften, *decoding]
    shown = [parts.step, parts.settled, parts.predicted, parts.step_note]
    of_one = [parts.slider, *shown]
    of_all = [*fills, parts.gallery, parts.spread, parts.spread_note]
    # Fills wait in the service's line, which the routes share and which tells how long it is.
    of_all += [parts.fill, parts.cancel, parts.again]
    fill = {"concurrency_limit": None, "concurrency_id": "fill"}
    on_marked(parts.fill.click, acts.fill, wanted, [*status, *of_one, *of_all], **fill)
    again = on(parts.again.click, acts.dice, None, parts.seed, queue=False)
    on_marked(again.then, acts.fill, wanted, [*status, *of_one, *of_all], **fill)
    on(parts.cancel.click, acts.cancel, None, None, queue=False)

    on(parts.gallery.select, acts.choose, None, [*status, *of_one])
    on(parts.step.input, acts.show_step, parts.step, [*status, *shown], trigger_mode="always_last")
    on(parts.play.click, acts.play, None, [*status, *shown])
    written = on(parts.save.click, acts.save, None, [parts.file, *status])
    on(written.then, None, parts.file, None, js=FETCH)
    gone_on = on(parts.go_on.click, acts.go_on, None, drawn)
    on(gone_on.then, None, None, None, js=SHOW_PHOTO)


async def _fetch_nothing(url: str, cache_dir: str) -> str:
    raise gr.Error("nothing is fetched from other hosts", print_exception=False)


def _own_folder() -> Path:
    """Make a folder for what comes and goes, of which nothing is left when the server ends."""
    folder = Path(mkdtemp(prefix="maskweave-web-"))
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder

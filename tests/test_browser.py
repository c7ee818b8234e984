"""The page in a real browser: Chromium, driven by Playwright."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import chelsea

from maskweave.images import as_picture
from maskweave.masks import read_mask
from maskweave.pipeline import InpaintPipeline
from maskweave.recall import read_recipe

pytest.importorskip("gradio", reason="the extra web is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = (
    os.environ.get("MASKWEAVE_CHROMIUM")
    or shutil.which("chromium")
    or shutil.which("google-chrome")
)
PATIENCE = 300_000
"""Milliseconds; without a graphics card and beside other work browsers are slow."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="there is no chromium and no google-chrome; MASKWEAVE_CHROMIUM names one",
    ),
]

SITE = """
import os, sys, time
from pathlib import Path
import uvicorn
from maskweave.pipeline import load_pipeline
from maskweave.web.app import make_app
from maskweave.web.service import Service

model, port, gate = sys.argv[1:]
passes = 0

def allowed():
    try:
        return Path(gate).stat().st_size
    except FileNotFoundError:
        return float("inf")

def wait(*_):
    global passes
    while passes >= allowed():
        time.sleep(0.05)
    passes += Path(gate).exists()

def load(name):
    pipeline = load_pipeline(name)
    pipeline.transformer.register_forward_pre_hook(wait)
    return pipeline

app = make_app(Service(model, load=load, max_pixels=500_000), "1")
print(os.environ["GRADIO_TEMP_DIR"], flush=True)
uvicorn.run(app, port=int(port), log_level="error")
"""
"""A server of the page whose model passes once for each byte of a file, while there is one."""

DRAWN = """
let editor, drawn = 0;
Object.defineProperty(window, "editor", {
  get: () => editor,
  set: (made) => { editor = made; made.on("input", () => { drawn += 1; }); },
});
window.drawn = () => drawn;
window.fitted = () => {
  const { app, image_container: image, width, height } = editor;
  const scale = editor.tools.get("zoom").calculate_min_zoom(width, height);
  const left = (app.screen.width - width * scale) / 2;
  const top = (app.screen.height - height * scale) / 2;
  const near = (one, other, most) => Math.abs(one - other) < most;
  return near(image.scale.x, scale, 0.01) && near(image.x, left, 1) && near(image.y, top, 1);
};
"""
"""Tells how often the editor has drawn a photo with its mask, and whether it shows all of it."""

PASTE = """bytes => {
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
}"""
"""Pastes a photo, as browsers do."""


class Site(NamedTuple):
    """A server that runs."""

    address: str
    folder: Path
    """Where it keeps what comes and goes."""
    gate: Path
    """While there is such a file, the model passes only as often as it has bytes."""


class Visit:
    """A page that is open in a browser, with what it shows and what a visitor does on it."""

    def __init__(self, browser: Any, site: Site) -> None:
        self.context = browser.new_context(viewport={"width": 560, "height": 620})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.add_init_script(DRAWN)
        self.page.goto(site.address)
        self.page.wait_for_function("window.drawn() > 0 && window.fitted()")
        self.photo("chelsea", 451, 300)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Wait until a mask that is asked for within is drawn in the editor."""
        before = self.page.evaluate("window.drawn()")
        yield
        self.page.wait_for_function("n => window.drawn() > n && window.fitted()", arg=before)

    def photo(self, name: str, width: int, height: int) -> None:
        """Wait until the editor shows a photo."""
        self.page.wait_for_function(
            "([label, width, height]) => document.querySelector('#editor label')"
            "?.innerText.includes(label)"
            " && window.editor.width == width && window.editor.height == height",
            arg=[f"{width} x {height}: {name}", width, height],
        )

    def status(self, words: str) -> None:
        """Wait until the status holds some words."""
        self.page.wait_for_function(
            "words => document.querySelector('#status p')?.innerText.includes(words)", arg=words
        )

    def press(self, name: str) -> None:
        self.page.click(f"#{name}")

    def choose(self, button: str, file: Path) -> None:
        self.page.set_input_files(f'[data-testid="{button}-upload-button"]', file)

    def download(self, button: str, file: Path) -> Path:
        with self.page.expect_download() as download:
            self.press(button)
        download.value.save_as(file)
        return file

    def mask(self, file: Path) -> np.ndarray:
        return read_mask(self.download("save-mask", file)).hole

    def stroke(self) -> None:
        """Paint from the middle of the photo over its right edge."""
        canvas = self.page.locator("#editor canvas").first
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.6
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + box["width"] - 4, y, steps=3)
        self.page.mouse.up()
        self.page.wait_for_function("!document.querySelector('[aria-label=Undo]').disabled")


@pytest.fixture(scope="module")
def site(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    gate = tmp_path_factory.mktemp("site") / "gate"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", SITE, str(tiny_model), str(port), str(gate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        folder = Path(server.stdout.readline().strip())
        for _ in range(600):
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield Site(f"http://127.0.0.1:{port}/", folder, gate)
        server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]
        flags += ["--disable-dev-shm-usage"]  # of which containers have little
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, site: Site) -> Iterator[Visit]:
    visit = Visit(browser, site)
    yield visit
    visit.context.close()


def test_the_first_click_fills_and_nobody_else_is_asked(
    site: Site, visit: Visit, tiny_model: Path, tmp_path: Path
) -> None:
    hole = visit.mask(tmp_path / "mask.png")
    visit.press("fill")
    visit.status("4 fills in")
    file = visit.download("save", tmp_path / "fill.png")
    assert all(url.startswith((site.address, "data:", "blob:")) for url in visit.requests)
    with Image.open(file) as image:
        filled = np.array(image)
    assert (filled[~hole] == chelsea()[~hole]).all() and (filled[hole] != chelsea()[hole]).any()
    call = InpaintPipeline.from_pretrained(tiny_model)(
        as_picture(chelsea()),
        hole,
        num_images_per_prompt=4,
        generator=torch.Generator().manual_seed(0),
    )
    assert (filled == np.array(call.images[0])).all()
    assert read_recipe(file).seed == 0

    visit.page.get_by_role("tab", name="Steps").click()
    before = visit.page.get_attribute("#settled img", "src")
    slider = visit.page.locator("#step input[type=range]")
    slider.focus()
    slider.press("ArrowLeft")
    visit.page.wait_for_function(
        "src => document.querySelector('#settled img').getAttribute('src') !== src", arg=before
    )
    with visit.shown():
        visit.press("go-on")
    visit.page.wait_for_function(
        "document.querySelector('#editor').getBoundingClientRect().top > -1"
    )


def test_strokes_boxes_masks_and_steps_back(visit: Visit, tmp_path: Path) -> None:
    sample = visit.mask(tmp_path / "sample.png")
    visit.stroke()
    painted = visit.mask(tmp_path / "painted.png")
    assert painted[sample].all() and painted[:, -1].any()
    visit.page.click("[aria-label=Undo]")
    visit.page.wait_for_function("document.querySelector('[aria-label=Undo]').disabled")
    assert (visit.mask(tmp_path / "undone.png") == sample).all()

    with visit.shown():
        visit.choose("Open mask", tmp_path / "painted.png")
    assert (visit.mask(tmp_path / "again.png") == painted).all()

    with visit.shown():
        visit.press("clear-mask")
    files: list[Any] = []
    visit.page.on("download", lambda file: files.append(file))  # noqa: PLW0108 (it marks its handlers)
    visit.press("save-mask")
    visit.status("Nothing is marked yet")
    visit.press("fill")
    visit.status("Nothing is marked yet")
    assert not files, "a mask of before was fetched"
    visit.page.get_by_text("Mask by numbers").click()
    for name, value in (("left", 20), ("top", 30), ("width", 40), ("height", 50)):
        visit.page.fill(f"#box-{name} input", str(value))
    with visit.shown():
        visit.press("add-box")
    box = visit.mask(tmp_path / "box.png")
    assert box[30:80, 20:60].all() and box.sum() == 50 * 40


def test_photos_that_are_refused_and_one_that_is_not(visit: Visit, tmp_path: Path) -> None:
    names = ("words", "large", "tall", "small")
    words, large, tall, small = (tmp_path / f"{name}.png" for name in names)
    words.write_bytes(b"words")
    visit.choose("Open photo", words)
    visit.status("not a readable image")
    Image.new("RGB", (1000, 501)).save(large)
    visit.choose("Open photo", large)
    visit.status("more than the 500000 allowed")
    deep = np.arange(600 * 300).astype(np.uint16).reshape(600, 300)
    Image.fromarray(deep).save(tall)
    with visit.shown():
        visit.choose("Open photo", tall)
    visit.photo("tall", 300, 600)
    visit.stroke()
    hole = visit.mask(tmp_path / "mask.png")
    assert hole.shape == (600, 300) and hole.any()
    visit.press("fill")
    visit.status("4 fills in")
    with Image.open(visit.download("save", tmp_path / "fill.png")) as image:
        filled = np.array(image)
    assert (filled[~hole] == deep[~hole]).all() and (filled[hole] != deep[hole]).any()

    Image.new("RGB", (60, 40)).save(small)
    with visit.shown():
        visit.page.evaluate(PASTE, list(small.read_bytes()))
    visit.photo("image", 60, 40)
    visit.page.wait_for_selector("#empty")
    assert not visit.page.is_visible("#gallery")


def test_cancel_acts_within_a_step_others_wait_and_closed_pages_are_forgotten(
    site: Site, browser: Any
) -> None:
    first, second = Visit(browser, site), Visit(browser, site)
    site.gate.touch()
    first.page.fill("#steps input[type=number]", "32")
    first.press("fill")
    first.status("of 32")
    asked = len(first.requests)
    second.press("fill")
    second.status("Waiting: 1 fill comes before yours")
    with first.page.expect_response(lambda response: "run/predict" in response.url):
        first.press("cancel")
    assert not any("upload" in url for url in first.requests[asked:]), "photos were sent again"
    site.gate.write_bytes(b".")  # the step that was begun may end
    first.status("The fill was cancelled")
    site.gate.unlink()
    second.status("4 fills in")
    first.context.close()
    second.context.close()
    deadline = time.monotonic() + PATIENCE / 1000
    while site.folder.exists() and any(site.folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not site.folder.exists() or not any(site.folder.iterdir())

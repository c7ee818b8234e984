"""The page without a browser: sessions, masks, downloads that can be repeated, and what is told."""

import asyncio
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from maskweave.cli.main import app as command
from maskweave.errors import MaskweaveError
from maskweave.images import Hole, read_image
from maskweave.masks import read_mask
from maskweave.pipeline import InpaintPipeline
from maskweave.recall import read_recipe

pytest.importorskip("gradio", reason="the extra web is not installed")
import gradio as gr
from fastapi.testclient import TestClient

from maskweave.web import views
from maskweave.web.acts import Acts, Updates
from maskweave.web.app import make_app
from maskweave.web.parts import make_parts
from maskweave.web.service import Service
from maskweave.web.session import Request, Result, Session
from maskweave.web.status import bar, failure, noted


@pytest.fixture(scope="module")
def service(tiny_model: Path) -> Iterator[Service]:
    service = Service(str(tiny_model))
    yield service
    service.close()


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session.sample(tmp_path)[0]


def png(values: np.ndarray) -> bytes:
    content = BytesIO()
    Image.fromarray(values).save(content, "PNG")
    return content.getvalue()


def mark(hole: Hole) -> bytes:
    """Return what the editor sends of a mask."""
    content = BytesIO()
    views.layer_of(hole, hole.shape[::-1]).save(content, "PNG")
    return content.getvalue()


def filled(session: Session, service: Service, hole: Hole, **request: Any) -> Result:
    wanted = Request(**{"number": 2, "model": service.model, "decoding": {}, "seed": 5} | request)
    ticket, seeds = session.submit(hole, wanted, service)
    source = session.picture
    session.result = Result(source, hole, wanted, seeds, ticket.result(), session.name)
    return session.result


def test_the_sample_has_a_mask_so_that_the_first_click_fills(tmp_path: Path) -> None:
    session, hole = Session.sample(tmp_path)
    assert hole.shape == session.picture.shape and 0 < hole.mean() < 0.2


def test_a_mask_comes_back_from_the_editor_as_it_went_there(session: Session) -> None:
    hole = np.random.default_rng(0).random(session.picture.shape) < 0.3
    photo, mask = session.shown(hole)
    with Image.open(photo) as image:
        assert image.size == session.picture.shape[::-1]
    assert (session.hole(mask.read_bytes()) == hole).all()


def test_a_mask_of_the_photo_before_is_not_taken_for_this_ones(
    session: Session, service: Service
) -> None:
    before = mark(np.zeros(session.picture.shape, dtype=bool))
    session.shown(session.open(png(np.zeros((20, 30), np.uint8)), "photo.png", service))
    with pytest.raises(MaskweaveError, match="not shown yet"):
        session.hole(before)


def test_no_layer_is_no_mask_and_what_is_no_picture_is_told(session: Session) -> None:
    hole = np.ones(session.picture.shape, dtype=bool)
    session.shown(hole)
    assert not session.hole(None).any()
    for broken in (b"", b"words", mark(hole)[:-30]):
        with pytest.raises(MaskweaveError, match="did not arrive"):
            session.hole(broken)


def test_nothing_marked_is_a_message(session: Session, service: Service) -> None:
    with pytest.raises(MaskweaveError, match="Nothing is marked yet"):
        filled(session, service, session.hole(None))


def test_a_photo_that_is_shown_smaller_keeps_its_size_and_thin_strokes() -> None:
    photo = np.zeros((40, 2 * views.LARGEST, 3), dtype=np.uint8)
    hole = np.zeros(photo.shape[:2], dtype=bool)
    hole[10, 100:200] = True
    layer = views.layer_of(hole, (views.LARGEST, 20))
    found = views.painted(layer, hole.shape)
    assert found.shape == hole.shape and found[hole].all()


def test_a_photo_is_taken_in_its_own_depth_with_its_transparency(
    session: Session, service: Service
) -> None:
    values = np.full((20, 30, 4), 255, dtype=np.uint8)
    values[3:6, 4:9, 3] = 0
    hole = session.open(png(values), "some/photo.png", service)
    assert session.name == "photo" and hole.sum() == 15
    deep = (np.arange(600, dtype=np.uint16) * 100).reshape(20, 30)
    assert not session.open(png(deep), "deep.png", service).any()
    assert session.picture.values.dtype == np.uint16


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"words", "not a readable image"), (png(np.zeros((9, 200), np.uint8)), "more than the 1000")],
)
def test_what_is_no_photo_or_too_large_is_told(
    session: Session, tiny_model: Path, content: bytes, said: str
) -> None:
    small = Service(str(tiny_model), max_pixels=1000)
    before = session.picture
    with pytest.raises(MaskweaveError, match=said):
        session.open(content, "photo.png", small)
    assert session.picture is before
    small.close()


def test_a_mask_is_downloaded_and_opened_again(session: Session, service: Service) -> None:
    hole = np.zeros(session.picture.shape, dtype=bool)
    hole[10:30, 5:9] = True
    file = session.download_mask(hole)
    assert file.name == "chelsea-mask.png" and (read_mask(file).hole == hole).all()
    again, notes = session.opened_mask(file.read_bytes(), service)
    assert (again == hole).all() and not notes


def test_a_mask_of_another_size_is_told(session: Session, service: Service) -> None:
    with pytest.raises(MaskweaveError, match="the mask is 8x8 pixels, the image 451x300"):
        session.opened_mask(png(np.full((8, 8), 255, np.uint8)), service)


def test_boxes_by_numbers(session: Session) -> None:
    rows, columns = session.picture.shape
    hole = session.box(columns - 10, rows - 5, 100, 100)
    assert hole.sum() == 50 and hole[-5:, -10:].all()
    for box in ((0, 0, 0, 5), (columns, 0, 5, 5), (None, None, None, None)):
        with pytest.raises(MaskweaveError, match="lies in the photo"):
            session.box(*box)


def test_fills_are_those_of_the_python_call(
    session: Session, service: Service, tiny_model: Path
) -> None:
    hole = session.box(100, 60, 40, 30)
    result = filled(session, service, hole)
    call = InpaintPipeline.from_pretrained(tiny_model)(
        session.picture,
        hole,
        num_images_per_prompt=2,
        generator=torch.Generator().manual_seed(5),
    )
    for fill, image in enumerate(call.images):
        assert (result.picture(fill).values == np.array(image)).all()
        assert (result.picture(fill).values[~hole] == session.picture.values[~hole]).all()


@pytest.mark.parametrize("request_", [{}, {"soften": 3}, {"model": "telea", "number": 1}])
def test_a_download_tells_how_it_was_made_and_is_made_again(
    session: Session,
    service: Service,
    tiny_model: Path,
    tmp_path: Path,
    request_: dict[str, Any],
) -> None:
    hole = session.box(100, 60, 40, 30)
    result = filled(session, service, hole, **request_)
    session.chosen = len(result.seeds) - 1
    file, mask = session.download("1.2.3"), session.download_mask(hole)
    recipe = read_recipe(file)
    assert (recipe.seed, recipe.fill, recipe.version) == (5, session.chosen, "1.2.3")
    photo, output = tmp_path / "photo.png", tmp_path / "again.png"
    Image.fromarray(session.picture.values).save(photo)
    arguments = ["inpaint", "--from", file, photo, "--mask", mask, "--output", output]
    if not request_.get("model"):
        assert "say where it is" in CliRunner().invoke(command, [*map(str, arguments)]).stderr
        arguments += ["--model", tiny_model]
    outcome = CliRunner().invoke(command, [*map(str, arguments)])
    assert outcome.exit_code == 0, outcome.output
    assert output.read_bytes() == file.read_bytes()


def test_options_that_the_recipe_tells_are_refused(session: Session, tmp_path: Path) -> None:
    arguments = ["inpaint", "--from", "a.png", "b.png", "--output", "c.png", "--steps", "3"]
    outcome = CliRunner().invoke(command, arguments)
    assert outcome.exit_code == 2 and outcome.stderr == "error: --from tells --steps itself\n"


def test_a_file_without_recipe_is_told(tmp_path: Path) -> None:
    file = tmp_path / "plain.png"
    file.write_bytes(png(np.zeros((4, 4), np.uint8)))
    with pytest.raises(MaskweaveError, match="does not tell how it was filled"):
        read_recipe(file)
    file.write_bytes(b"words")
    with pytest.raises(MaskweaveError, match="no PNG file"):
        read_recipe(file)


def test_other_weights_are_told(session: Session, service: Service, tmp_path: Path) -> None:
    hole = session.box(0, 0, 9, 9)
    filled(session, service, hole)
    file, photo = session.download("1"), tmp_path / "photo.png"
    Image.fromarray(session.picture.values).save(photo)
    mask = session.download_mask(hole)
    arguments = ["inpaint", "--from", file, photo, "--mask", mask, "--output", tmp_path / "o.png"]
    outcome = CliRunner().invoke(command, [*map(str, arguments), "--model", "cats64"])
    assert outcome.exit_code == 2 and "other weights" in outcome.stderr


def test_a_recipe_does_not_go_along_when_a_fill_is_filled_again(
    session: Session, service: Service
) -> None:
    filled(session, service, session.box(0, 0, 9, 9))
    file = session.download("1")
    assert not read_image(file).about.chunks


def test_painting_goes_on_on_a_fill(session: Session, service: Service) -> None:
    with pytest.raises(MaskweaveError, match="no fill yet"):
        session.go_on()
    result = filled(session, service, session.box(0, 0, 9, 9))
    session.chosen = 1
    assert not session.go_on().any()
    assert session.picture is result.picture(1) and session.name == "chelsea"


def test_fills_go_when_another_photo_is_opened(session: Session, service: Service) -> None:
    filled(session, service, session.box(0, 0, 9, 9))
    with pytest.raises(MaskweaveError, match="not a readable image"):
        session.open(b"words", "words.png", service)
    assert session.result is not None
    session.open(png(np.zeros((20, 30), np.uint8)), "another.png", service)
    for act in (session.go_on, lambda: session.download("1")):
        with pytest.raises(MaskweaveError, match="no fill yet"):
            act()


def pressed(acts: Acts, visitor: Any) -> Iterator[Updates]:
    """Press Fill on the page as it is at first."""
    acts.begin(visitor)
    _, hole = Session.sample(acts.folder)
    decoding = [part.value for part in acts.parts.decoding().values()]
    return acts.fill(visitor, mark(hole), 1, acts.service.model, 0, 0, *decoding)


@pytest.fixture
def acts(service: Service, tmp_path: Path) -> Acts:
    async def made() -> Acts:
        with gr.Blocks():
            return Acts(service, "1", make_parts(service), tmp_path)

    return asyncio.run(made())  # as in mount_page


def test_a_photo_opened_while_another_is_filled_takes_the_fill_away(
    acts: Acts, tmp_path: Path
) -> None:
    visitor: Any = SimpleNamespace(session_hash="visitor")
    updates = pressed(acts, visitor)
    next(updates)
    file = tmp_path / "another.png"
    file.write_bytes(png(np.zeros((20, 30), np.uint8)))
    shown = acts.open_photo(visitor, str(file))
    assert shown[acts.parts.empty].visible and not shown[acts.parts.results].visible
    *_, last = updates
    assert "The fill was cancelled" in last[acts.parts.status]
    assert acts.session(visitor).result is None


def test_a_file_that_cannot_be_written_leaves_none_to_fetch(acts: Acts) -> None:
    visitor: Any = SimpleNamespace(session_hash="visitor")
    acts.begin(visitor)
    _, hole = Session.sample(acts.folder)
    assert acts.save_mask(visitor, mark(hole))[acts.parts.file].name == "chelsea-mask.png"
    for told in (acts.save_mask(visitor, None), acts.save(visitor)):
        assert told[acts.parts.file] is None and "alert" in told[acts.parts.status]


def test_after_a_fault_there_is_fill_again_not_cancel(
    acts: Acts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(acts.service, "_fill", broken)
    updates = pressed(acts, SimpleNamespace(session_hash="visitor"))
    assert next(updates)[acts.parts.cancel].visible
    last = next(each for each in updates if acts.parts.fill in each)
    assert last[acts.parts.fill].visible and not last[acts.parts.cancel].visible
    with pytest.raises(RuntimeError, match="out of memory"):
        next(updates)


def test_steps_and_uncertainty_are_pictures_of_the_hole(session: Session, service: Service) -> None:
    hole = session.box(100, 60, 40, 30)
    result = filled(session, service, hole, decoding={"steps": 3})
    assert [len(steps) for steps in result.filled.fills] == [3, 3]
    settled, predicted = views.step_pictures(result.filled.fills[0][0], hole)
    assert settled.shape == predicted.shape and (settled != predicted).any()
    settled, predicted = views.step_pictures(result.filled.fills[0][-1], hole)
    assert (settled == predicted).all()
    spread = views.uncertainty([result.picture(0), result.picture(1)], hole)
    assert spread.shape == settled.shape


def test_progress_and_errors_are_told_in_words(session: Session, service: Service) -> None:
    wanted = Request(1, service.model, {}, 0)
    ticket, _ = session.submit(session.box(0, 0, 9, 9), wanted, service)
    ticket.result()
    assert "window 1 of 1" in bar(ticket).lower()
    assert noted(["one thing.", "another"]).count("</p>") == 2
    ticket.place = 2
    assert "2 fills come before yours" in bar(ticket)
    assert "&lt;b&gt;" in failure(MaskweaveError("<b>"))
    assert ">Too large<" in failure(MaskweaveError("too  large"))
    assert ">cat.png is" in failure(MaskweaveError("cat.png is no image"))


def test_every_control_has_a_label_and_no_other_host_is_named(service: Service) -> None:
    with TestClient(make_app(service, "1")) as client:
        config, text = client.get("/config").json(), client.get("/").text
    kinds = ("slider", "number", "dropdown", "radio", "image", "imageeditor", "gallery")
    labels = [part["props"].get("label") for part in config["components"] if part["type"] in kinds]
    assert len(labels) > 15 and all(labels)
    assert "googleapis" not in text and "gstatic" not in text

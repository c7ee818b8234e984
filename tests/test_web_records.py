"""``maskweave web --manifest``: rows of what was handed out, which ``--replay`` repeats."""

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from maskweave.cli.main import app as command
from maskweave.errors import MaskweaveError
from maskweave.images import read_image
from maskweave.manifest import read_manifest

pytest.importorskip("gradio", reason="the extra web is not installed")
import gradio as gr
from fastapi.testclient import TestClient

from maskweave.web import views
from maskweave.web.acts import Acts
from maskweave.web.parts import make_parts
from maskweave.web.records import Records
from maskweave.web.routes import make_routes
from maskweave.web.service import Service
from maskweave.web.session import Session
from maskweave.web.wire import as_base64


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "fills.jsonl"


@pytest.fixture
def service(tiny_model: Path, manifest: Path) -> Iterator[Service]:
    service = Service(str(tiny_model), record=Records(manifest, "1").add)
    yield service
    service.close()


@pytest.fixture
def photo(rng: np.random.Generator) -> bytes:
    """A JPEG photo that says when it was taken."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[306] = "2026:01:02 03:04:05"
    pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    return file.getvalue()


@pytest.fixture
def mask() -> bytes:
    file, hole = io.BytesIO(), np.zeros((40, 50), dtype=np.uint8)
    hole[5:12, 8:20] = 255
    Image.fromarray(hole).save(file, "PNG")
    return file.getvalue()


def repeated(manifest: Path, model: Path, folder: Path, exact: bool = True) -> None:
    """Replay a manifest, whose fills come out as it says: to the byte, or but for rounding."""
    arguments = ["inpaint", "--replay", manifest, "--output", folder, "--model", model]
    result = CliRunner().invoke(command, [str(each) for each in arguments])
    differs = "differs from the fill that the manifest tells of"
    assert result.exit_code == 0 or (not exact and differs in result.output), result.output


def pixels_of(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image)


def test_what_routes_return_is_repeated_to_the_byte(
    service: Service, manifest: Path, tiny_model: Path, tmp_path: Path, photo: bytes, mask: bytes
) -> None:
    files = {"image": photo, "mask": mask}
    encoded, painted = as_base64(photo), as_base64(mask)
    with TestClient(make_routes(service, "1")) as client:
        options = {"seed": "7", "grow": "2", "steps": "3"}
        answers = [
            client.post("/v1/fill", files=files, data=options),
            client.post("/v1/fill", files=files, data={"soften": "2"}),  # not to be repeated
            client.post("/api/v1/inpaint", json={"image": encoded, "mask": painted}),
            client.post("/sdapi/v1/img2img", json={"init_images": [encoded], "mask": painted}),
            client.post("/v1/fill", files={"image": photo}),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 400]
    rows = read_manifest(manifest)
    assert len(rows) == 3 and len({row.image for row in rows}) == 1
    assert len({row.mask for row in rows}) == 2  # one of them grown
    repeated(manifest, tiny_model, tmp_path / "again")
    first = read_image(tmp_path / "again" / rows[0].output).values
    assert (first == pixels_of(answers[0].content)).all()


def test_fills_that_were_made_together_are_repeated_one_by_one_but_for_rounding(
    service: Service, manifest: Path, tiny_model: Path, tmp_path: Path, photo: bytes, mask: bytes
) -> None:
    files = {"image": photo, "mask": mask}
    with TestClient(make_routes(service, "1")) as client:
        answer = client.post("/v1/fill", files=files, data={"seed": "7", "num_samples": "2"})
    rows = read_manifest(manifest)
    repeated(manifest, tiny_model, tmp_path / "again", exact=False)
    fills = [pixels_of(base64.b64decode(each)) for each in answer.json()["images"]]
    assert len(rows) == len(fills) == 2 and (fills[0] != fills[1]).any()
    for row, fill in zip(rows, fills, strict=True):
        again = read_image(tmp_path / "again" / row.output).values
        assert np.abs(again.astype(int) - fill).max() <= 1


def test_only_fills_of_the_page_that_are_downloaded_are_kept(
    service: Service, manifest: Path, tiny_model: Path, tmp_path: Path
) -> None:
    async def made() -> Acts:
        with gr.Blocks():
            return Acts(service, "1", make_parts(service), tmp_path / "page")

    acts, visitor = asyncio.run(made()), SimpleNamespace(session_hash="visitor")
    acts.begin(visitor)  # type: ignore[arg-type]
    _, hole = Session.sample(acts.folder)
    marked = io.BytesIO()
    views.layer_of(hole, hole.shape[::-1]).save(marked, "PNG")
    decoding = [part.value for part in acts.parts.decoding().values()]
    for _ in acts.fill(visitor, marked.getvalue(), 2, service.model, 0, 0, *decoding):  # type: ignore[arg-type]
        pass
    assert read_manifest(manifest) == []
    request: Any = visitor
    file = acts.save(request)[acts.parts.file]
    assert acts.save(request)[acts.parts.file] == file
    [row] = read_manifest(manifest)
    repeated(manifest, tiny_model, tmp_path / "again")
    again = read_image(tmp_path / "again" / row.output)
    assert (again.values == read_image(file).values).all()


def test_what_is_no_manifest_is_not_added_to(tmp_path: Path) -> None:
    table = tmp_path / "fills.jsonl"
    table.write_text('{"image": "photo.png"}\n')
    for file, said in (
        (tmp_path / "fills.parquet", "called .jsonl"),
        (table, "no manifest"),
        (Path("/proc/none/fills.jsonl"), "cannot write"),
    ):
        with pytest.raises(MaskweaveError, match=said):
            Records(file, "1")


def test_the_fill_is_handed_out_also_where_no_row_can_be_written(
    service: Service, manifest: Path, photo: bytes, mask: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.unlink()
    manifest.mkdir()
    with TestClient(make_routes(service, "1")) as client:
        assert client.post("/v1/fill", files={"image": photo, "mask": mask}).status_code == 200
    assert "no row was added" in capsys.readouterr().err

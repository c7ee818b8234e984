"""Exports that cannot be made or read: refused in one line, and nothing is left."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from maskweave.cli.main import app
from maskweave.errors import MaskweaveError
from maskweave.export import write_model
from maskweave.pipeline import InpaintPipeline
from maskweave.tracing import write_graphs
from maskweave.training.decoder_task import DecoderRecipe
from maskweave.training.train import train_decoder

pytest.importorskip("openvino", reason="the extra openvino is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")


def test_nothing_is_left_of_an_export_that_fails(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MaskweaveError, match=r"pip install 'maskweave\[onnx\]'"):
        write_model(model, "onnx", tmp_path / "out" / "model")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("runtime", "module"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_what_is_not_installed_is_the_only_thing_told(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    runtime: str,
    module: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MaskweaveError, match=rf"pip install 'maskweave\[{runtime}\]'"):
        InpaintPipeline.from_pretrained(model, backend=runtime)
    assert capsys.readouterr().err == ""


def test_mistakes_are_one_line(model: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    new = str(tmp_path / "new")
    for arguments, told in {
        ("nothing", "--to", "openvino", "--output", new): "unknown model 'nothing'",
        (str(model), "--to", "openvino", "--output", str(full)): "an export needs a new folder",
        (str(model), "--to", "openvino", "--output", new, "--int8"): "--int8 and --calibration",
        (str(model), "--to", "tensorrt", "--output", new): "'tensorrt' is not one of",
        (str(full), "--to", "onnx", "--output", new): "config.json",
    }.items():
        done = CliRunner().invoke(app, ["export", *arguments])
        assert done.exit_code == 2, done.output
        [line] = done.stderr.strip().splitlines()
        assert told in line
    assert not Path(new).exists()


def test_what_an_export_cannot_do_is_refused(exported: Path, tmp_path: Path) -> None:
    pipeline = InpaintPipeline.from_pretrained(exported)
    other = "onnx" if pipeline.backend == "openvino" else "openvino"
    for action, told in (
        (lambda: InpaintPipeline.from_pretrained(exported, backend="torch"), "was exported for"),
        (lambda: InpaintPipeline.from_pretrained(exported, backend=other), "was exported for"),
        (lambda: InpaintPipeline.from_pretrained(exported, backend="jax"), "backend is auto"),
        (lambda: InpaintPipeline.from_pretrained(exported, torch_dtype=torch.float16), "computes"),
        (lambda: pipeline.to("meta"), "runs on the CPU"),
        (lambda: pipeline.to(torch.bfloat16), "runs on the CPU"),
        (lambda: pipeline.save_pretrained(tmp_path), "has no weights to save"),
        (lambda: write_model(exported, "onnx", tmp_path / "again"), "exported already"),
        (lambda: train_decoder(DecoderRecipe(), tmp_path, exported, tmp_path), "is exported"),
    ):
        with pytest.raises(MaskweaveError, match=told):
            action()
    assert pipeline.to("cpu") is pipeline


def test_an_operation_that_graphs_do_not_know_is_one_line(model: Path, tmp_path: Path) -> None:
    pipeline = InpaintPipeline.from_pretrained(model)
    tokenizer = pipeline.tokenizer
    tokenizer.encode = lambda images: torch.linalg.eigvals(images).long()  # type: ignore[method-assign]
    with pytest.raises(MaskweaveError, match="cannot write the encoder for onnx: ") as raised:
        write_graphs(tokenizer, pipeline.transformer, tmp_path, "onnx")
    assert "\n" not in str(raised.value)


def copied(exported: Path, copy: Path) -> Path:
    shutil.copytree(exported, copy)
    return copy


def test_graphs_that_do_not_fit_their_configs_are_one_line(exported: Path, tmp_path: Path) -> None:
    swapped = copied(exported, tmp_path / "swapped")
    for file in (swapped / "graphs").glob("decoder.*"):
        shutil.copyfile(file, file.with_name(f"encoder{file.suffix}"))
    other = copied(exported, tmp_path / "other")
    for name in ("tokenizer", "transformer"):
        config = other / name / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"grid": [2, 8]}))
    for folder in (swapped, other):
        with pytest.raises(MaskweaveError, match="are not those of the configs beside them"):
            InpaintPipeline.from_pretrained(folder)


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_broken_graphs_are_one_line(exported: Path, tmp_path: Path, damage: str) -> None:
    copy = copied(exported, tmp_path / "copy")
    [graph] = [f for f in (copy / "graphs").glob("transformer.*") if f.suffix != ".bin"]
    if damage == "missing":
        graph.unlink()
    else:
        graph.write_bytes(graph.read_bytes()[: 100 if damage == "cut" else 0])
    with pytest.raises(MaskweaveError, match="cannot read the graphs"):
        InpaintPipeline.from_pretrained(copy)

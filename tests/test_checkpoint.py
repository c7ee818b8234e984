"""Law 7: what is saved loads to the same bytes; what is broken is named."""

import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from maskweave.checkpoint import load_tokenizer, load_transformer, resolve, shipped_models
from maskweave.errors import MaskweaveError
from maskweave.files import LARGEST_CONFIG
from maskweave.maskgit import DecodeSettings
from maskweave.pipeline import InpaintPipeline


def fill(pipeline: InpaintPipeline) -> np.ndarray:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    hole = np.zeros((16, 16), dtype=bool)
    hole[3:12, 5:13] = True
    generator = torch.Generator().manual_seed(0)
    return pipeline(image, hole, generator=generator, output_type="np").images[0]


def test_law_7_a_model_saved_and_loaded_gives_the_same_bytes(
    pipeline: InpaintPipeline, tmp_path: Path
) -> None:
    pipeline.defaults = DecodeSettings(steps=3, top_k=5, confidence="probability")
    pipeline.save_pretrained(tmp_path)
    loaded = InpaintPipeline.from_pretrained(tmp_path)
    assert loaded.defaults == pipeline.defaults
    assert loaded.tokenizer.config == pipeline.tokenizer.config
    assert loaded.transformer.config == pipeline.transformer.config
    assert np.array_equal(fill(loaded), fill(pipeline))
    assert not list(tmp_path.rglob("*.unfinished"))


def test_half_precision_weights_are_half_the_size_and_load_as_float32(
    pipeline: InpaintPipeline, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path, torch.float16)
    stored = load_file(tmp_path / "transformer" / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    loaded = InpaintPipeline.from_pretrained(tmp_path)
    assert {weight.dtype for weight in loaded.transformer.parameters()} == {torch.float32}
    for name, weight in loaded.transformer.state_dict().items():
        assert torch.equal(weight, stored[name].float())


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(model: Path, bad: float) -> None:
    file = model / "transformer" / "model.safetensors"
    weights = load_file(file)
    weights["blocks.1.mlp.0.weight"][3, 2] = bad
    save_file(weights, file)
    with pytest.raises(MaskweaveError, match=r"NaN or infinite weights in blocks\.1\.mlp\.0"):
        load_transformer(model / "transformer")


def test_weights_that_do_not_fit_or_cannot_be_read_are_refused(model: Path) -> None:
    file = model / "tokenizer" / "model.safetensors"
    config = model / "tokenizer" / "config.json"
    original = file.read_bytes()
    file.write_bytes(original[:100])
    with pytest.raises(MaskweaveError, match="cannot read"):
        load_tokenizer(model / "tokenizer")
    file.write_bytes(original)
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"codebook_size": 16}))
    with pytest.raises(MaskweaveError, match="does not fit its config"):
        load_tokenizer(model / "tokenizer")
    file.unlink()
    with pytest.raises(MaskweaveError, match="cannot read"):
        load_tokenizer(model / "tokenizer")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "does not hold a JSON object"),
        ('{"depth": 3}', "does not describe TokenizerConfig: see depth"),
        ('{"image_size": "64"}', "does not describe TokenizerConfig: see image_size"),
        ('{"image_size": 64.0}', "does not describe TokenizerConfig: see image_size"),
        ('{"channels": [8, true, 8]}', "does not describe TokenizerConfig: see channels"),
        ('{"codebook_size": 10000000000000}', "sizes out of range"),
        ('{"codebook_dim": 0}', "sizes out of range"),
        ('{"encoder_blocks": 1000000000}', "sizes out of range"),
        ('{"image_size": 0}', "image_size 0 is not a multiple"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "not valid JSON"),
        ('{"patch_size": 5}', "patch_size 5 needs"),
        ('{"a": "' + "x" * LARGEST_CONFIG + '"}', "larger than a config can be"),
    ],
)
def test_broken_configs_are_refused(model: Path, content: str, message: str) -> None:
    (model / "tokenizer" / "config.json").write_text(content)
    with pytest.raises(MaskweaveError, match=message):
        load_tokenizer(model / "tokenizer")


@pytest.mark.parametrize("sizes", [{"heads": 0}, {"depth": 10**9}, {"dim": 10**9}])
def test_transformers_of_absurd_sizes_are_refused(model: Path, sizes: dict[str, int]) -> None:
    config = model / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | sizes))
    with pytest.raises(MaskweaveError, match="sizes out of range"):
        load_transformer(model / "transformer")


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"noise": 1}, "does not describe DecodeSettings: see noise"),
        ({"steps": 2.5}, "does not describe DecodeSettings: see steps"),
        ({"confidence": "entropy"}, "does not describe DecodeSettings: see confidence"),
        ({"steps": 10**13}, "config.json: steps must be from 1 to"),
    ],
)
def test_wrong_default_settings_are_refused(
    model: Path, defaults: dict[str, object], message: str
) -> None:
    (model / "config.json").write_text(json.dumps({"defaults": defaults}))
    with pytest.raises(MaskweaveError, match=message):
        InpaintPipeline.from_pretrained(model)


def test_components_that_do_not_belong_together_are_refused(pipeline: InpaintPipeline) -> None:
    from maskweave.transformer import BidirectionalTransformer, TransformerConfig

    for codes, patch, differ in ((16, 0, "codebook or grid"), (32, 8, "patch")):
        config = TransformerConfig(codes, (4, 4), 16, 1, 2, 16, patch_size=patch)
        with pytest.raises(MaskweaveError, match=f"differ in their {differ} size"):
            InpaintPipeline(pipeline.tokenizer, BidirectionalTransformer(config))


def test_a_tokenizer_alone_is_no_model_yet(model: Path) -> None:
    shutil.rmtree(model / "transformer")
    with pytest.raises(MaskweaveError, match="holds a tokenizer alone"):
        InpaintPipeline.from_pretrained(model)


@pytest.mark.parametrize("name", ["no-such-model", "../../no/where", "/no/where", "a/b/c"])
def test_an_unknown_model_is_refused_with_those_that_ship(name: str) -> None:
    with pytest.raises(MaskweaveError, match="unknown model"):
        resolve(name)


def test_a_hub_id_is_downloaded_without_anything_that_could_be_unpickled(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def snapshot_download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(model)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert resolve("somebody/cats") == model
    assert asked == {
        "name": "somebody/cats", "allow_patterns": ["*.json", "*.safetensors", "*.md"]
    }  # fmt: skip
    assert isinstance(InpaintPipeline.from_pretrained("somebody/cats"), InpaintPipeline)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, **options: object) -> str:
        raise ConnectionError("no route\nto host")

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(MaskweaveError, match=r"not on the hub .*no route$"):
        resolve("somebody/cats")


def test_the_shipped_models_load() -> None:
    assert "cats64" in shipped_models()
    for name in shipped_models():
        InpaintPipeline.from_pretrained(name)
        folder = resolve(name)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        assert size < 32e6
        assert (folder / "README.md").is_file()

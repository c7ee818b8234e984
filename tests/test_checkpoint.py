"""Law 7: what is saved loads to the same bytes; what is broken is named."""

import json
import shutil
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import tiny_pipeline
from maskweave.checkpoint import load_tokenizer, load_transformer, resolve, shipped_models
from maskweave.errors import MaskweaveError
from maskweave.files import LARGEST_CONFIG
from maskweave.legacy import read_config
from maskweave.maskgit import DecodeSettings
from maskweave.models import DEFAULT_MODEL
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
    pipeline.defaults = DecodeSettings(steps=3, top_k=5, order="probability")
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


def test_finite_weights_are_taken_whatever_their_sum(model: Path) -> None:
    file = model / "transformer" / "model.safetensors"
    weights = load_file(file)
    weights["blocks.1.mlp.0.weight"][:] = 3e38
    save_file(weights, file)
    assert load_transformer(model / "transformer").blocks[1].mlp[0].weight.min() > 1e38


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
        ('{"depth": 3}', "does not describe TokenizerConfig: depth: Unexpected"),
        ('{"image_size": "64"}', "TokenizerConfig: image_size should be .* integer, got '64'$"),
        ('{"image_size": 64.0}', "TokenizerConfig: image_size should be .* integer, got 64.0$"),
        (
            '{"channels": [8, true, 8]}',
            "TokenizerConfig: channels.1 should .* integer, got True$",
        ),
        (
            '{"codebook_size": 10000000000000}',
            "codebook_size should be less than .* 65536",
        ),
        ('{"codebook_dim": 0}', "codebook_dim should be greater than or equal to 1"),
        ('{"encoder_blocks": 1000000000}', "encoder_blocks should be less"),
        ('{"image_size": 0}', "image_size should be greater"),
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
    with pytest.raises(MaskweaveError, match=f"TransformerConfig: {next(iter(sizes))} should be"):
        load_transformer(model / "transformer")


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"noise": 1}, "does not describe DecodeSettings: noise: Unexpected"),
        ({"steps": 2.5}, "does not describe DecodeSettings: steps should be .* integer"),
        ({"order": "entropy"}, "config.json does not describe DecodeSettings: order is one of"),
        ({"steps": 10**13}, "config.json does not describe DecodeSettings: steps should be less"),
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
    graphs = ["graphs/*.xml", "graphs/*.bin", "graphs/*.onnx"]
    patterns = ["*.json", "*.safetensors", "*.md", "*merges.txt", *graphs]
    assert asked == {"name": "somebody/cats", "allow_patterns": patterns}
    assert isinstance(InpaintPipeline.from_pretrained("somebody/cats"), InpaintPipeline)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, **options: object) -> str:
        raise ConnectionError("no route\nto host")

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(MaskweaveError, match=r"not on the hub .*no route$"):
        resolve("somebody/cats")


def test_the_shipped_models_load() -> None:
    assert shipped_models() == ["cats64", "photos"]
    assert DEFAULT_MODEL in shipped_models()
    size = 0
    for name in shipped_models():
        InpaintPipeline.from_pretrained(name)
        folder = resolve(name)
        size += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        assert (folder / "README.md").is_file()
    assert size < 95e6  # PyPI takes files of 100 MB


def test_configs_of_version_0_1_are_read_with_the_names_of_today(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path)
    old = {
        "tokenizer": {
            "image_size": 16, "patch": 4, "codebook_size": 32, "code_dim": 8, "encoder_dim": 16,
            "encoder_blocks": 3, "channels": [8, 8, 16], "decoder_blocks": 1,
        },
        "transformer": {
            "codebook_size": 32, "length": 16, "dim": 16, "layers": 2, "heads": 2, "mlp_dim": 32,
            "pre_norm": False, "modern": False, "dropout": 0.0, "attention_dropout": 0.1,
            "tied_output": True, "mask_logit": False, "patch": 4,
        },
        ".": {"defaults": {"steps": 3, "confidence": "probability"}},
    }  # fmt: skip
    for part, fields in old.items():
        (tmp_path / part / "config.json").write_text(json.dumps(fields))
    again = InpaintPipeline.from_pretrained(tmp_path)
    assert again.tokenizer.config == pipeline.tokenizer.config
    assert again.transformer.config == pipeline.transformer.config
    assert again.defaults == DecodeSettings(steps=3, order="probability")


@pytest.mark.parametrize("defaults", [5, "abc", None, [1, 2]])
def test_defaults_that_are_no_object_are_refused(model: Path, defaults: object) -> None:
    (model / "config.json").write_text(json.dumps({"defaults": defaults}))
    with pytest.raises(MaskweaveError, match=r"config\.json: defaults are a JSON object"):
        InpaintPipeline.from_pretrained(model)


def test_the_modern_block_of_version_0_1_is_its_four_choices(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"modern": true, "length": 12}')
    modern = ("pre_norm", "rms_norm", "swiglu", "rotary", "qk_norm")
    assert read_config(file) == {"grid": [3, 4]} | dict.fromkeys(modern, True)


def test_a_model_is_uploaded_whole_and_refusals_of_the_hub_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hub:
        files: ClassVar[list[str]] = []

        def __init__(self, token: str | None) -> None:
            assert token == "secret"

        def create_repo(self, name: str, private: bool | None, exist_ok: bool) -> None:
            assert exist_ok
            if name == "nobody/model":
                raise RuntimeError("403 Forbidden\nand a page of HTML")

        def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> str:
            Hub.files = sorted(str(f.relative_to(folder_path)) for f in folder_path.rglob("*.*"))
            return f"hub/{repo_id}/{commit_message}"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    pipeline = tiny_pipeline()
    assert pipeline.push_to_hub("me/model", token="secret") == "hub/me/model/Upload model"
    assert Hub.files == [
        "config.json",
        "tokenizer/config.json", "tokenizer/model.safetensors",
        "transformer/config.json", "transformer/model.safetensors",
    ]  # fmt: skip
    with pytest.raises(MaskweaveError, match=r"^cannot upload to 'nobody/model': 403 Forbidden$"):
        pipeline.push_to_hub("nobody/model", token="secret")


def test_arguments_of_the_hub_reach_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    seen: dict[str, object] = {}

    def download(name: str, **arguments: object) -> str:
        seen.update(arguments, name=name)
        return str(tiny_model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    InpaintPipeline.from_pretrained(
        "me/model", revision="v1", cache_dir=tmp_path, token=False, local_files_only=True
    )
    wanted = {"revision": "v1", "cache_dir": tmp_path, "token": False, "local_files_only": True}
    assert wanted.items() <= seen.items()

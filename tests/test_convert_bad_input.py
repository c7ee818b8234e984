"""Files of strangers that go wrong: one line, exit code 2, nothing written, no code run."""

import math
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import maskweave.convert.folder
from maskweave.cli.main import app
from maskweave.convert import safe_load

State = dict[str, Tensor]

PYTORCH = {
    "taming": "taming/checkpoints/last.ckpt",
    "llamagen": "llamagen_vq/vq_ds16_c2i.pt",
    "openmuse": "openmuse_maskgit_vqgan/maskgit-vqgan-imagenet-f16-256.bin",
    "lab": "reference_vqgan/VQGAN.pt",
}
FILES = PYTORCH | {
    "google": "google_maskgit/tokenizer_imagenet256_checkpoint",
    "amused": "amused/vqvae/diffusion_pytorch_model.safetensors",
}
NESTS = {"taming": "state_dict", "llamagen": "model"}


class Refused:
    """Converts a file of a family, which must fail in one line and leave nothing behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, family: str, file: Path, *more: object, part: str = "tokenizer") -> str:
        before = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        output = self.folder / "model"
        command = ["convert", family, f"--{part}", file, "--output", output, *more]
        result = CliRunner().invoke(app, [str(argument) for argument in command])
        assert result.exit_code == 2, (result.output, result.exception)
        assert result.stdout == ""
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
        after = {path: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        assert after == before and not output.exists()
        return result.stderr


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    return Refused(tmp_path)


def state_of(family: str, shared: Path) -> State:
    file = shared / "golden" / FILES[family]
    if file.suffix == ".safetensors":
        return load_file(file)
    content = torch.load(file, weights_only=True)
    return dict(content[NESTS[family]] if family in NESTS else content)


def written(state: dict[str, Any], family: str, folder: Path) -> Path:
    """Write weights as a family's project does."""
    file = folder / Path(FILES[family]).name
    if file.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in state.items()}, file)
    else:
        torch.save({NESTS[family]: state} if family in NESTS else state, file)
    return file


@pytest.mark.parametrize("family", FILES)
def test_a_file_that_was_cut_off(
    family: str, shared: Path, tmp_path: Path, refused: Refused
) -> None:
    whole = (shared / "golden" / FILES[family]).read_bytes()
    file = tmp_path / Path(FILES[family]).name
    for length in (0, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert str(file) in refused(family, file)
    file.write_bytes(whole + b"\0" * 100 if family in ("google", "amused") else b"PK\3\4" + whole)
    refused(family, file)


@pytest.mark.parametrize("family", [*PYTORCH, "amused"])
def test_names_that_are_wrong_missing_or_left_over_are_told(
    family: str, shared: Path, tmp_path: Path, refused: Refused
) -> None:
    state = state_of(family, shared)
    name = next(name for name in state if name.startswith("encoder.") and "norm1" in name + "norm1")
    renamed = {("encoder.other.weight" if k == name else k): v for k, v in state.items()}
    message = refused(family, written(renamed, family, tmp_path))
    assert name in message or name.rpartition(".")[0].split(".")[-1] in message
    extra = state | {"decoder.extra.weight": torch.ones(3)}
    message = refused(family, written(extra, family, tmp_path))
    assert "has left over decoder.extra.weight" in message
    # Stopped halfway by another converter: half of the names are ours already.
    half = {
        k if i % 2 else f"encoder.layers.{i}.weight": v for i, (k, v) in enumerate(state.items())
    }
    refused(family, written(half, family, tmp_path))
    # As somebody else's optimiser wrote it.
    refused(family, written({"layer.weight": torch.ones(2, 2)}, family, tmp_path))


@pytest.mark.parametrize("family", [*PYTORCH, "amused"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers(
    family: str, value: float, shared: Path, tmp_path: Path, refused: Refused
) -> None:
    state = state_of(family, shared)
    state["encoder.conv_in.weight" if family != "lab" else "encoder.model.0.weight"][0, 0, 0, 0] = (
        value
    )
    assert "NaN or infinite weights in encoder." in refused(
        family, written(state, family, tmp_path)
    )


@pytest.mark.parametrize("family", [*PYTORCH, "amused"])
def test_weights_of_another_shape(
    family: str, shared: Path, tmp_path: Path, refused: Refused
) -> None:
    state = state_of(family, shared)
    name = next(k for k in state if k.endswith("conv2.weight") or k.endswith("block.5.weight"))
    state[name] = state[name][:, :-1].contiguous()
    message = refused(family, written(state, family, tmp_path))
    assert f"has of another shape {name}" in message


@pytest.mark.parametrize(
    ("family", "other"), [("taming", "llamagen"), ("llamagen", "openmuse"), ("openmuse", "taming")]
)
def test_files_of_another_family(family: str, other: str, shared: Path, refused: Refused) -> None:
    message = refused(family, shared / "golden" / FILES[other])
    assert "lacks" in message or "holds no state dict" in message


def test_a_gumbel_vqgan_is_refused_by_name(shared: Path, tmp_path: Path, refused: Refused) -> None:
    state = state_of("taming", shared)
    state["quantize.embed.weight"] = state.pop("quantize.embedding.weight")
    state["quantize.proj.weight"] = torch.ones(64, 32, 1, 1)
    assert "Gumbel quantisation" in refused("taming", written(state, "taming", tmp_path))


# --- code


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("family", [*PYTORCH, "google", "amused"])
def test_code_in_a_pickle_is_not_run(family: str, tmp_path: Path, refused: Refused) -> None:
    sprung = tmp_path / "sprung"
    file = tmp_path / Path(FILES[family]).name
    for protocol in (2, 4):
        torch.save({"state_dict": {"a": Trap(sprung)}}, file, pickle_protocol=protocol)
        refused(family, file)
        file.write_bytes(pickle.dumps({"model": Trap(sprung)}, protocol))
        refused(family, file)
    torch.save(Trap(sprung), file, _use_new_zipfile_serialization=False)
    refused(family, file)
    assert not sprung.exists()


def test_callbacks_that_are_objects_are_refused_and_the_message_says_how_to_strip_them(
    shared: Path, tmp_path: Path, refused: Refused
) -> None:
    content = torch.load(shared / "golden" / FILES["taming"], weights_only=True)
    content["callbacks"] = {Fraction: {"best": Fraction(1, 3)}}
    file = tmp_path / "last.ckpt"
    torch.save(content, file)
    message = refused("taming", file)
    assert "holds objects (fractions.Fraction), which are never unpickled" in message
    script = message.partition('python -c "')[2].rpartition('"')[0]
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    output = tmp_path / "component"
    command = ["convert", "taming", "--tokenizer", tmp_path / "weights.pt", "--output", output]
    assert CliRunner().invoke(app, list(map(str, command))).exit_code == 0
    assert (output / "model.safetensors").is_file()


def test_a_name_of_a_file_adds_nothing_to_the_command_that_strips_it(
    tmp_path: Path, refused: Refused
) -> None:
    file = tmp_path / "x');print('run"
    torch.save(Fraction(1, 3), file)
    script = refused("taming", file).partition("python -c")[2]
    assert "torch.load('FILE'" in script and "run" not in script


# --- sizes


@pytest.mark.parametrize("family", PYTORCH)
def test_a_zip_bomb_is_not_unpacked(family: str, tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / Path(FILES[family]).name
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/version", b"3\n")
        bomb.writestr("archive/data.pkl", bytes(1 << 24))
    assert file.stat().st_size < 1 << 16
    assert "as no checkpoint does" in refused(family, file)


def test_a_file_that_is_too_large(
    shared: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safe_load, "LARGEST_FILE", 1000)
    for family, file in FILES.items():
        assert "is larger than 1000 bytes" in refused(family, shared / "golden" / file)


def test_weights_that_repeat_few_bytes_many_times(
    shared: Path, tmp_path: Path, refused: Refused
) -> None:
    state = state_of("taming", shared)
    state["quantize.embedding.weight"] = torch.zeros(1).expand(1 << 18, 1 << 18)
    assert "more weights than" in refused("taming", written(state, "taming", tmp_path))


# --- flax


def array(shape: object, name: object = "float32", raw: object = b"") -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((shape, name, raw)))


def nested(depth: int) -> bytes:
    return b"\x81\xa1a" * depth + b"\xc0"


KERNEL = array((1, 1, 1, 2), "float32", bytes(8))

FLAX: dict[str, tuple[bytes, str]] = {
    "a huge shape": (msgpack.packb({"params": {"a": array((1 << 40, 1 << 40))}}), "in 0 bytes"),
    "a shape beyond all": (msgpack.packb({"a": array((1 << 62,) * 8)}), "in 0 bytes"),
    "a shape of too many axes": (msgpack.packb({"a": array((1,) * 9)}), "no whole file"),
    "a negative shape": (msgpack.packb({"a": array((-1, -1), raw=bytes(4))}), r"shape [-1, -1]"),
    "an empty shape": (msgpack.packb({"a": array((0,))}), "of shape [0]"),
    "a shape that is none": (msgpack.packb({"a": array("ab")}), 'of shape "ab"'),
    "too few bytes": (msgpack.packb({"a": array((2,), raw=bytes(4))}), "[2] of float32 in 4 bytes"),
    "objects": (msgpack.packb({"a": array((1,), "object", bytes(8))}), "'object', which are no"),
    "integers": (msgpack.packb({"a": array((1,), "int32", bytes(4))}), "'int32', which are no"),
    "no array": (msgpack.packb({"a": msgpack.ExtType(1, b"\x91\x01")}), "without shape"),
    "another extension": (msgpack.packb({"a": msgpack.ExtType(3, b"\x01")}), "of extension type 3"),
    "a number": (msgpack.packb({"a": 3}), "no state dict of weights: see a"),
    "a list": (msgpack.packb({"a": [1, 2]}), "no whole file of flax"),
    "no map": (msgpack.packb(3), "holds no map"),
    "nothing": (msgpack.packb({}), "no state dict"),
    "deep maps": (nested(100), "more than 32 maps within one another"),
    "very deep maps": (nested(100_000), "no whole file of flax"),
    "deep lists": (b"\x91" * 100_000, "no whole file of flax"),
    "a map that says it is huge": (b"\xdf\xff\xff\xff\xff", "no whole file of flax"),
    "a list that says it is huge": (b"\xdd\xff\xff\xff\xff", "no whole file of flax"),
    "a string that says it is huge": (b"\x81\xdb\xff\xff\xff\xff", "no whole file of flax"),
    "an array that says it is huge": (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "no whole file"),
    "a name twice": (b"\x82\xa1a\xc0\xa1a\xc0", "one twice"),
    "a name that is a number": (b"\x81\x01\xc0", "no whole file of flax"),
    "many empty maps": (msgpack.packb({str(i): {} for i in range(15)}), "no state dict"),
    "too many names": (
        msgpack.packb({str(i): {str(j): None for j in range(200)} for i in range(200)}),
        "too many names",
    ),
    "NaN": (msgpack.packb({"a": array((1,), raw=b"\xff\xff\xff\xff")}), "NaN or infinite"),
    "beyond float32": (
        msgpack.packb({"a": array((1,), "float64", struct.pack("<d", 1e300))}),
        "NaN or infinite",
    ),
    "another project's": (msgpack.packb({"params": {"encoder": {"Dense_0": KERNEL}}}), "0 blocks"),
    "a name with a colour": (msgpack.packb({"\x1b[31ma": 3}), "see ?[31ma"),
}  # fmt: skip


@pytest.mark.parametrize("case", FLAX)
def test_a_flax_file_that_is_not_what_it_says(case: str, tmp_path: Path, refused: Refused) -> None:
    content, message = FLAX[case]
    file = tmp_path / "tokenizer_imagenet256_checkpoint"
    file.write_bytes(content)
    found = refused("google", file)
    assert message in found and "\x1b" not in found


def test_a_flax_file_with_an_array_of_another_shape(
    shared: Path, tmp_path: Path, refused: Refused
) -> None:
    def other(code: int, packed: bytes) -> msgpack.ExtType:
        shape, name, raw = msgpack.unpackb(packed)
        if shape == [3, 3, 64, 64]:
            shape = [3, 3, 32, 128]
        return msgpack.ExtType(code, msgpack.packb((shape, name, raw)))

    whole = (shared / "golden" / FILES["google"]).read_bytes()
    file = tmp_path / "tokenizer_imagenet256_checkpoint"
    file.write_bytes(msgpack.packb(msgpack.unpackb(whole, ext_hook=other)))
    message = refused("google", file)
    assert "has of another shape" in message and "decoder.Conv_2.kernel" in message
    left_out = msgpack.unpackb(whole, ext_hook=msgpack.ExtType)
    del left_out["params"]["decoder"]["GroupNorm_0"]["scale"]
    left_out["params"]["decoder"]["GroupNorm_9"] = {"scale": array((1,), raw=bytes(4))}
    file.write_bytes(msgpack.packb(left_out))
    message = refused("google", file)
    assert "lacks decoder.GroupNorm_0.scale" in message
    assert "has left over decoder.GroupNorm_9.scale" in message


# --- what is asked for, and where it goes


def test_a_disk_that_fails_halfway_leaves_nothing(
    shared: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(maskweave.convert.folder, "sha256", full)
    message = refused("taming", shared / "golden" / FILES["taming"])
    assert "cannot write" in message and "No space left on device" in message
    assert list(refused.folder.iterdir()) == []


def test_parts_of_different_codebooks_or_grids(shared: Path, refused: Refused) -> None:
    first = shared / "golden" / "reference_vqgan" / "VQGAN.pt"
    second = shared / "golden" / "reference_transformer_fused" / "ckpt_10.pt"
    message = refused("lab", first, "--transformer", second, "--image-size", 128)
    assert "differ in their grid: 128 pixels are 32x32 tokens, not 16x16" in message


def test_what_cannot_be_asked_for(shared: Path, tmp_path: Path, refused: Refused) -> None:
    file = shared / "golden" / FILES["taming"]
    assert "unknown family 'nobody'; known are lab, google" in refused("nobody", file)
    message = refused("taming", file, part="transformer")
    assert "taming has no transformer that is converted" in message
    assert "image_size 250 is not a multiple" in refused("taming", file, "--image-size", 250)
    assert "does not exist" in refused("taming", tmp_path / "none.ckpt")
    assert "is no file" in refused("taming", tmp_path)
    result = CliRunner().invoke(app, ["convert", "taming", "--output", str(tmp_path / "x")])
    assert result.exit_code == 2 and "nothing to convert" in result.stderr

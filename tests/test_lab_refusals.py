"""Checkpoints of the reference experiment that do not fit or are broken: refused by name."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from commands import run
from lab_checkpoints import HEADS, convert, small_transformer, small_vqgan
from maskweave.convert import safe_load
from maskweave.convert.families import Options
from maskweave.convert.folder import convert as convert_files
from maskweave.errors import MaskweaveError


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("blocks.0.Attention.rel_pos", torch.randn(3), "left over blocks.0.Attention.rel_pos"),
        ("mask_token", torch.randn(16), "has left over mask_token"),
        ("transformer.LN.bias", torch.randn(16), "holds LN.bias twice"),
        ("blocks.0.Attention.W_q.weight", torch.randn(16, 16), "query.weight twice, once as"),
        ("blocks.1.LayerNorm2.bias", None, "lacks blocks.1.LayerNorm2.bias"),
        ("blocks.1.Attention.k_linear.weight", None, "lacks blocks.1.Attention.key.weight"),
        ("blocks.1.Attention.k_linear.bias", None, "lacks blocks.1.Attention.key.bias"),
        ("tok_emb.weight", None, "lacks tok_emb.weight of 2 axes"),
        ("pos_emb", torch.randn(1, 16, 16), "lacks pos_emb of 2 axes"),
        ("pos_emb", torch.randn(15, 16), r"of another shape bias \[16, 17\]"),
        ("blocks.0.MLP.2.weight", torch.randn(16, 23), r"shape blocks.0.MLP.2.weight \[16, 23\]"),
        ("LN.weight", torch.full((16,), torch.nan), "NaN or infinite weights in LN.weight"),
        ("LN.weight", torch.full((16,), torch.inf), "NaN or infinite weights in LN.weight"),
        ("LN.weight", torch.ones(16, dtype=torch.int64), "no state dict of weights: see LN.weight"),
        ("LN.weight", torch.ones(16, device="meta"), "no state dict of weights: see LN.weight"),
        ("LN.weight", torch.ones(16).to_sparse(), "no state dict of weights: see LN.weight"),
        ("LN.weight", torch.tensor(1.0), "no state dict of weights: see LN.weight"),
        ("LN.weight", 3.0, "no state dict of weights: see LN.weight"),
        ("mask_token_tensor", torch.tensor(16), "no state dict of weights: see mask_token_tensor"),
        ("pos_emb", torch.zeros(1).expand(2**16, 2**16), "holds more weights than"),
    ],
)
def test_a_transformer_that_does_not_fit_is_refused_by_name(
    files: tuple[Path, Path], name: str, value: Any, message: str
) -> None:
    state = small_transformer() | {name: value}
    torch.save({k: v for k, v in state.items() if v is not None}, files[1])
    with pytest.raises(MaskweaveError, match=rf"epoch_5\.pt: .*{message}"):
        convert(*files, HEADS)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("discriminator.model.0.weight", torch.randn(4, 3), "left over discriminator.model.0"),
        ("encoder.model.9.weight", torch.randn(4, 3), "left over encoder.model.9.weight"),
        ("encoder.model.4.proj_out.bias", None, "lacks encoder.model.4.proj_out.bias"),
        ("encoder.model.3.conv.weight", None, "lacks encoder.model.3.conv.weight"),
        ("encoder.model.1.block.2.weight", None, "lacks encoder.model.1.block.2.weight"),
        ("encoder.model.4.q.bias", None, "lacks encoder.model.4.q.bias"),
        ("encoder.model.5.gn.weight", None, "lacks encoder.model.5.gn.weight"),
        ("encoder.model.8.bias", torch.randn(8), "left over encoder.model.8.bias"),
        ("decoder.model.6.bias", torch.randn(4), r"of another shape decoder.model.6.bias \[4\]"),
        ("decoder.model.0.weight", torch.randn(64), "lacks decoder.model.0.weight of 4 axes"),
        ("codebook.embedding.weight", None, "lacks codebook.embedding.weight of 2 axes"),
        (
            "encoder.model.0.weight",
            torch.randn(33, 3, 3, 3),
            "encoder_channels.* multiple of 32",
        ),
    ],
)
def test_a_vqgan_that_does_not_fit_is_refused_by_name(
    files: tuple[Path, Path], name: str, value: Tensor | None, message: str
) -> None:
    state = small_vqgan() | {name: value}
    torch.save({k: v for k, v in state.items() if v is not None}, files[0])
    with pytest.raises(MaskweaveError, match=rf"VQGAN\.pt: .*{message}"):
        convert(*files, HEADS)


def test_parts_that_do_not_belong_together_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(MaskweaveError, match="dim 16 is not a multiple of heads 3"):
        convert(*files, heads=3)
    with pytest.raises(MaskweaveError, match=r"epoch_5\.pt: lacks encoder.model.1"):
        convert(files[1], files[0])
    state = small_vqgan() | {"codebook.embedding.weight": torch.randn(17, 8)}
    torch.save(state, files[0])
    with pytest.raises(MaskweaveError, match="differ in their codebook: 17 codes and 16"):
        convert(*files, HEADS)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.file,)


def test_an_object_is_refused_without_being_unpickled(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    sprung = tmp_path / "sprung"
    for content in (Trap(sprung), {"model": small_transformer(), "args": Trap(sprung)}):
        torch.save(content, files[1])
        with pytest.raises(MaskweaveError, match=r"holds objects.*, which are never unpickled"):
            convert(*files, HEADS)
        files[1].write_bytes(pickle.dumps(content, protocol=2))
        with pytest.raises(MaskweaveError, match=r"holds objects.*, which are never unpickled"):
            convert(*files, HEADS)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


def test_files_that_are_broken_too_large_or_hold_something_else_are_refused(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str) -> None:
        with pytest.raises(MaskweaveError, match=rf"epoch_5\.pt: .*{message}"):
            convert_files("lab", transformer=files[1], options=Options(HEADS))

    whole = files[1].read_bytes()
    for part in (b"", whole[:100], whole[: len(whole) // 2], whole[:-30]):
        files[1].write_bytes(part)
        refused("is broken")
    for content in ([torch.ones(3)], torch.ones(3), {}, {"model": 3}, {"model": {}}):
        torch.save(content, files[1])
        refused("holds no")
    circle: dict[str, Any] = {}
    circle["model"] = circle
    torch.save(circle, files[1])
    refused("no state dict of weights: see model")
    files[1].unlink()
    refused("does not exist")
    files[1].mkdir()
    refused("is no file")
    files[1].rmdir()
    files[1].write_bytes(whole)
    monkeypatch.setattr(safe_load, "LARGEST_FILE", len(whole) - 1)
    refused("is larger than")
    with zipfile.ZipFile(files[1], "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", bytes(len(whole)))
    assert files[1].stat().st_size < len(whole) / 10
    refused(rf"unpacks to {len(whole)} bytes from \d+, as no checkpoint does")


def test_a_failed_conversion_is_one_line_and_nothing_written(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    files[0].write_bytes(b"no checkpoint")
    output = tmp_path / "model"
    result = run(
        "convert", "reference", "--tokenizer", files[0], "--transformer", files[1],
        "--output", output, "--heads", HEADS,
    )  # fmt: skip
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: {files[0]}: is broken")
    assert not output.exists()

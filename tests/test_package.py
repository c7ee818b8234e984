"""What ``import maskweave`` offers, and what it does not cost."""

import inspect
import subprocess
import sys

import pytest

import maskweave


def test_the_exported_names() -> None:
    assert sorted(maskweave.__all__) == [
        "DecodeSettings",
        "InpaintPipeline",
        "load_pipeline",
        "seeded",
    ]
    for name in maskweave.__all__:
        assert getattr(maskweave, name).__name__ == name


def test_what_is_not_exported_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pipeline'"):
        maskweave.Pipeline  # noqa: B018


def test_torch_is_imported_only_when_it_is_used() -> None:
    code = "import sys, maskweave; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_version_is_one_of_semantic_versioning() -> None:
    numbers = maskweave.__version__.split(".")
    assert len(numbers) == 3
    assert all(number.isdigit() for number in numbers[:2])


def test_the_signature_of_the_call_is_that_of_diffusers_pipelines() -> None:
    parameters = inspect.signature(maskweave.InpaintPipeline.__call__).parameters
    assert [*parameters] == [
        "self", "image", "mask_image", "num_inference_steps", "temperature",
        "label", "prompt", "guidance_scale",
        "num_images_per_prompt", "generator", "threshold", "grow", "batch_size", "memory",
        "keep_known", "output_type", "output_steps", "uncertainty", "callback_on_step_end",
        "settings",
    ]  # fmt: skip
    assert parameters["output_type"].default == "pil"
    assert parameters["keep_known"].default is True

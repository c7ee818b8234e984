"""Tiny models, plain and guided, and what is exported of them for each runtime."""

from functools import partial
from pathlib import Path

import pytest
import torch

from conftest import tiny_pipeline
from maskweave.domain import Probe
from maskweave.export import write_model

RUNTIMES = ("openvino", "onnx")
MODELS = {"plain": tiny_pipeline, "guided": partial(tiny_pipeline, guided=True, narrow=2)}


@pytest.fixture(scope="session", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model with a probe."""
    folder = tmp_path_factory.mktemp("models") / request.param
    pipeline = MODELS[request.param]()
    pipeline.probe = Probe(torch.randn(32), torch.tensor(0.0))
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=RUNTIMES)
def exported(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("exports") / "model"
    write_model(model, request.param, output)
    return output

"""Whole models as graphs for OpenVINO or ONNX Runtime, in float32 or in 8 bits."""

import dataclasses
import logging
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from maskweave.backends import SUFFIX, Graph, Runtime, needing, openvino_core
from maskweave.call import Photo
from maskweave.checkpoint import resolve
from maskweave.errors import MaskweaveError
from maskweave.files import read_json, tried, write_json
from maskweave.graphs import FOLDER, GraphTokenizer, GraphTransformer, graph_config
from maskweave.holes import KINDS, PHOTO_KINDS, draw_hole
from maskweave.images import read_image
from maskweave.pipeline import InpaintPipeline
from maskweave.tracing import write_graphs
from maskweave.transformer import BidirectionalTransformer

SAMPLES = 128
"""Most inputs of each graph from which ranges of values are taken."""

Inputs = dict[str, np.ndarray[Any, Any]]


def calibration_photos(files: Sequence[Path], framing: str) -> Iterator[Photo]:
    """Yield images with holes of all kinds that the framing is for, in turn.

    Raises
    ------
    MaskweaveError
        If an image cannot be read or has no room for a hole.
    """
    kinds = PHOTO_KINDS if framing == "texture" else KINDS
    for number, file in enumerate(files):
        picture = read_image(file)
        kind = kinds[number % len(kinds)]
        yield Photo(
            picture, draw_hole(kind, *picture.shape, np.random.default_rng(number)), [number]
        )


def write_model(
    model: str | Path, runtime: Runtime, output: Path, calibration: Sequence[Path] | None = None
) -> None:
    """Write a model as graphs; its folder appears under its name only when whole.

    Parameters
    ----------
    model : str or Path
        A model with torch weights, as ``InpaintPipeline.from_pretrained`` takes it.
    runtime : {"openvino", "onnx"}
        What is to run the graphs.
    output : Path
        A new folder, or an empty one.
    calibration : sequence of Path, optional
        Images of the model's kind, in whose fills the ranges of all values are measured, of the
        first ``SAMPLES``: transformer and decoder then compute in 8 bits (post-training
        quantisation).

    Raises
    ------
    MaskweaveError
        If the model is none or is exported already, the output is not empty or cannot be written,
        or a package is missing.
    """
    check_empty(output)
    pipeline, card = InpaintPipeline.from_pretrained(model), resolve(model) / "README.md"
    transformer = pipeline.transformer
    if pipeline.backend != "torch":
        raise MaskweaveError(f"{model} is exported already: export the model that it was made of")
    if not isinstance(transformer, BidirectionalTransformer):
        raise MaskweaveError(f"{transformer.config.architecture} is not exported: it runs by torch")
    with tried(output.parent):
        folder = output.parent / f".{secrets.token_hex(8)}.unfinished"
        try:
            _write_configs(pipeline, folder, runtime)
            (folder / FOLDER).mkdir()
            write_graphs(pipeline.tokenizer, transformer, folder / FOLDER, runtime)
            if calibration is not None:
                photos = calibration_photos(calibration[:SAMPLES], pipeline.framing)
                _quantise(folder, runtime, photos)
            if card.is_file():
                shutil.copyfile(card, folder / card.name)
            check_empty(output)  # somebody else may have written there meanwhile
            if output.is_dir():
                output.rmdir()
            folder.rename(output)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def check_empty(output: Path) -> None:
    """Refuse a folder that holds something, or a file.

    Raises
    ------
    MaskweaveError
        If it does.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise MaskweaveError(f"{output} exists: an export needs a new folder")


def _write_configs(pipeline: InpaintPipeline, folder: Path, runtime: Runtime) -> None:
    configs = {
        "tokenizer": graph_config(pipeline.tokenizer),
        "transformer": pipeline.transformer.config,
    }
    for name, config in configs.items():
        write_json(folder / name / "config.json", dataclasses.asdict(config))
    config = {"framing": pipeline.framing, "domain": pipeline.domain}
    defaults = dataclasses.asdict(pipeline.defaults)
    write_json(folder / "config.json", config | {"graphs": runtime, "defaults": defaults})
    if pipeline.probe is not None:
        pipeline.probe.save(folder)


class Recorded:
    """A graph that keeps what it is given, up to ``SAMPLES`` inputs."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.inputs = graph.inputs
        self.samples: list[Inputs] = []

    def run(self, **inputs: Tensor) -> Sequence[Tensor]:
        """Run the graph."""
        if len(self.samples) < SAMPLES:
            self.samples.append({name: value.numpy().copy() for name, value in inputs.items()})
        return self.graph.run(**inputs)


def _quantise(folder: Path, runtime: Runtime, photos: Iterable[Photo]) -> None:
    """Replace graphs by those in 8 bits, calibrated on fills of photos by the former.

    The encoder stays as it is: rounded latents would have other tokens than those in use.
    """
    with needing(runtime):
        quantised = _quantised_openvino if runtime == "openvino" else _quantised_onnx
        pipeline = InpaintPipeline.from_pretrained(folder)
        tokenizer, transformer = pipeline.tokenizer, pipeline.transformer
        assert isinstance(tokenizer, GraphTokenizer)
        assert isinstance(transformer, GraphTransformer)
        predictor = transformer.graph = Recorded(transformer.graph)
        recorded = {"transformer": predictor}
        # What is painted beside a guide is fine detail, which 8 bits lose: docs/speed.md
        if not tokenizer.guided:
            recorded["decoder"] = tokenizer.decoder = Recorded(tokenizer.decoder)
        for _ in pipeline.fill(photos, pipeline.defaults, batch_size=1):
            pass
        if not predictor.samples:
            raise MaskweaveError("calibration needs at least one image")
        with redirect_stdout(sys.stderr):  # where both runtimes tell how far they are
            for name, graph in recorded.items():
                quantised(folder / FOLDER / f"{name}{SUFFIX[runtime]}", graph.samples)
    config = folder / "config.json"
    write_json(config, read_json(config) | {"int8": True})


# Kozlov et al. 2021, "Neural Network Compression Framework for fast model inference"
def _quantised_openvino(file: Path, samples: list[Inputs]) -> None:
    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino_core().read_model(file)
    kind = nncf.ModelType.TRANSFORMER if "transformer" in file.name else None
    model = nncf.quantize(
        *(model, nncf.Dataset(samples)),
        subset_size=len(samples),
        model_type=kind,
        # Sums of products of 8 bits overflow on CPUs without VNNI: weights get 7.
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            overflow_fix=nncf.OverflowFix.ENABLE
        ),
    )
    written = file.with_name("quantised.xml")
    openvino.save_model(model, written)  # what stays in floating point is kept in 16 bits
    for suffix in (".xml", ".bin"):
        written.with_suffix(suffix).replace(file.with_suffix(suffix))


def _quantised_onnx(file: Path, samples: list[Inputs]) -> None:
    from onnxruntime import quantization

    left = iter(samples)

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> Any:
            return next(left, None)

    written = file.with_name("quantised.onnx")
    quantization.quantize_static(
        file,
        written,
        Reader(),
        per_channel=True,
        reduce_range=True,  # of weights to 7 bits, as above
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        extra_options={"MatMulConstBOnly": True},
    )
    written.replace(file)

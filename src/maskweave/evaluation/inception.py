"""Inception features (Szegedy et al. 2015) and the two distances between sets that rest on them.

Network, weights and distances are torch-fidelity's; pytorch-fid's way of resizing is offered beside
its own because many published figures were measured with it.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from maskweave.errors import MaskweaveError
from maskweave.files import sha256, user_cache, write_whole
from maskweave.images import Pixels

Resize = Literal["torch-fidelity", "pytorch-fid"]

STAGES = {
    64: "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 MaxPool_1",
    192: "Conv2d_3b_1x1 Conv2d_4a_3x3 MaxPool_2",
    768: "Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e",
    2048: "Mixed_7a Mixed_7b Mixed_7c",
}
"""Width of the features (pytorch-fid's ``dims``) after each stage, and the stage's layers."""

SIDE = 299
"""What images are resized to, in pixels."""

PUBLISHED = URL_INCEPTION_V3.rsplit("/", 1)[-1]
"""The published file; its name ends in the first digits of its SHA-256."""

KID_SUBSETS = 100
LARGEST_KID_SUBSET = 1000


class MissingWeightsError(MaskweaveError):
    """There are no Inception weights on this machine, and they could not be downloaded."""


class Inception(nn.Module):
    """Features of images after one stage of the network, averaged over the picture.

    Parameters
    ----------
    features : int
        Their number: 64, 192, 768 or 2048.
    resize : {"torch-fidelity", "pytorch-fid"}
        How images come to ``SIDE`` pixels: as TensorFlow 1 did, or by torch's bilinear resize.
    weights : Path, optional
        Weights in torch-fidelity's format. By default the published file, from ``TORCH_HOME`` or,
        once, from the network.

    Raises
    ------
    MissingWeightsError
        If the published weights are not there and cannot be downloaded.
    MaskweaveError
        If an option is unknown or the weights cannot be read.
    """

    def __init__(self, features: int, resize: Resize, weights: Path | None = None) -> None:
        super().__init__()
        if features not in STAGES:
            raise MaskweaveError(f"features must be one of {[*STAGES]}, got {features}")
        if resize not in ("torch-fidelity", "pytorch-fid"):
            raise MaskweaveError(f"resize is torch-fidelity or pytorch-fid, got {resize!r}")
        self.features, self.resize = features, resize
        file = weights or _published()
        network = _network(file)
        names = " ".join(layers for width, layers in STAGES.items() if width <= features).split()
        self.layers = nn.Sequential(*(getattr(network, name) for name in names))
        self.layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.sha256 = sha256(file)

    @property
    def published(self) -> bool:
        """Whether the weights are the published ones, by their hash."""
        return self.sha256.startswith(Path(PUBLISHED).stem.rsplit("-", 1)[-1])

    @property
    def source(self) -> str:
        """What a figure that rests on these features has to name."""
        return (
            f"torch-fidelity {version('torch-fidelity')}, features {self.features}, "
            f"resize {self.resize}, weights {self.sha256[:8]}"
        )

    @torch.inference_mode()
    def forward(
        self, images: UInt8[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features"]:
        """Return the features of images of one size."""
        if self.resize == "torch-fidelity":
            x = interpolate_bilinear_2d_like_tensorflow1x(
                images.float(), size=(SIDE, SIDE), align_corners=False
            )
            x = (x - 128) / 128
        else:
            x = F.interpolate(images / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
            x = 2 * x - 1
        return self.layers(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))


def features_of(
    images: Sequence[Pixels], inception: Inception, cache: Path | None = None, required: bool = True
) -> Float[np.ndarray, "images features"]:
    """Return the features of images of any sizes, from the cache if they are there.

    Parameters
    ----------
    images : sequence of numpy.ndarray
        uint8, (height, width, 3).
    inception : Inception
        The network.
    cache : Path, optional
        Folder with a file for every batch that was ever asked for, named by the hash of its pixels
        and of the network. Missing, it is made.
    required : bool
        Whether it is an error if the cache cannot be written.

    Raises
    ------
    MaskweaveError
        If a feature is not finite: the weights are broken. If a required cache cannot be written.
    """
    identity = hashlib.sha256(inception.source.encode() + inception.sha256.encode())
    for image in images:
        identity.update(str(image.shape).encode() + np.ascontiguousarray(image).tobytes())
    file = cache / f"{identity.hexdigest()}.safetensors" if cache else None
    if file and (cached := read_cached(file)):
        return cached["features"].numpy()
    device = next(inception.parameters()).device
    parts = [
        inception(torch.from_numpy(np.stack([*group])).permute(0, 3, 1, 2).to(device)).cpu()
        for _, group in groupby(images, key=np.shape)
    ]
    features = torch.cat(parts)
    if not features.isfinite().all():
        raise MaskweaveError(
            f"the {inception.features} features are not finite: the Inception weights are broken "
            "there; fewer --features may work"
        )
    if file:
        with nullcontext() if required else suppress(MaskweaveError):
            write_cached(file, {"features": features})
    return features.numpy()


def real_features(
    images: Sequence[Pixels], inception: Inception
) -> Float[np.ndarray, "images features"]:
    """Return the features of images that many commands measure, kept in the user's cache."""
    return features_of(images, inception, user_cache() / "features", required=False)


def frechet_distance(
    one: Float[np.ndarray, "n features"], other: Float[np.ndarray, "m features"]
) -> float:
    """Return FID (Heusel et al. 2017, eq. 6): at least 0, biased by n, lower is better."""
    statistics = [
        fid_features_to_statistics(torch.from_numpy(part).double()) for part in (one, other)
    ]
    distance = fid_statistics_to_metric(*statistics, verbose=False)
    # Rounding of eigenvalues that are 0 can leave a little less than nothing.
    return max(0.0, distance["frechet_inception_distance"])


def kernel_distance(
    one: Float[np.ndarray, "n features"], other: Float[np.ndarray, "m features"]
) -> tuple[float, float]:
    """Return KID (Binkowski et al. 2018, section 4): unbiased mean and deviation over subsets."""
    distance = kid_features_to_metric(
        torch.from_numpy(one).double(),
        torch.from_numpy(other).double(),
        kid_subsets=KID_SUBSETS,
        kid_subset_size=kid_subset(min(len(one), len(other))),
        verbose=False,
    )
    return (
        distance["kernel_inception_distance_mean"],
        distance["kernel_inception_distance_std"],
    )


def kid_subset(n: int) -> int:
    """Return the size of KID's subsets: half of the images, so that subsets differ, up to 1,000."""
    return min(LARGEST_KID_SUBSET, max(2, n // 2))


def read_cached(file: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file, or None if it is missing or broken."""
    try:
        return load_file(file)
    except (OSError, SafetensorError):
        return None


def write_cached(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors for ``read_cached``."""
    write_whole(file, save(tensors))


def _published() -> Path:
    """Return the published weights, downloaded if they are not in ``TORCH_HOME``."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / PUBLISHED
    if not file.exists():
        digits = Path(PUBLISHED).stem.rsplit("-", 1)[-1]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(file), digits)
        except (OSError, RuntimeError) as error:  # the latter of a broken download
            raise MissingWeightsError(
                f"FID needs Inception weights: connect once to download them, put {PUBLISHED} into "
                f"TORCH_HOME or name the file with --inception ({error})"
            ) from error
    return file


def _network(file: Path) -> FeatureExtractorInceptionV3:
    # torch-fidelity unpickles its file without restriction: it is given a copy of safely read ones.
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "weights.pth"
            torch.save(weights, copy)
            return FeatureExtractorInceptionV3("inception", ["2048"], str(copy))
    # torch raises whatever it stumbles over in a broken file.
    except Exception as error:
        # Of a pickle that it refuses, torch says how to run it all the same.
        lines = [] if isinstance(error, UnpicklingError) else str(error).splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise MaskweaveError(f"{file} holds no readable Inception weights: {reason}") from error

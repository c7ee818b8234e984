"""Configs on disk, with the names that fields had in version 0.1 made those of today."""

import math
from pathlib import Path
from typing import Any

from maskweave.errors import MaskweaveError
from maskweave.files import read_json

RENAMED = {"patch": "patch_size", "code_dim": "codebook_dim", "layers": "depth"}
"""Fields of components: the name of 0.1, and today's."""

MODERN = ("pre_norm", "rms_norm", "swiglu", "rotary", "qk_norm")
"""What the field ``modern`` switched on together."""


LAB = {"architecture": "convolutional_vqgan", "variant": "lab"}
"""What the architecture ``reference`` meant."""


def read_config(file: Path) -> dict[str, Any]:
    """Read the config of a component.

    Raises
    ------
    MaskweaveError
        If the file is missing, too large or no JSON object.
    """
    fields = {RENAMED.get(name, name): value for name, value in read_json(file).items()}
    if isinstance(length := fields.get("length"), int) and length > 0:
        side = math.isqrt(fields.pop("length"))
        fields["grid"] = [side, length // side]
    if fields.pop("modern", False):
        fields |= dict.fromkeys(MODERN, True)
    if fields.get("architecture") == "reference":
        fields |= LAB
    return fields


def read_defaults(file: Path) -> dict[str, Any]:
    """Read the default decode settings of a model, as ``read_config`` does a component."""
    defaults = read_json(file).get("defaults", {})
    if not isinstance(defaults, dict):
        raise MaskweaveError(f"{file}: defaults are a JSON object, got {defaults!r:.40}")
    confidence = defaults.pop("confidence", None)
    if confidence is not None:
        defaults["order"] = "confidence" if confidence == "log_probability" else confidence
    return defaults

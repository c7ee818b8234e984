"""What fills without a download: the models in this folder, and methods that have no weights."""

from pathlib import Path

SHIPPED = Path(__file__).parent

DEFAULT_MODEL = "photos"
"""What fills unless another model is named."""

ORIGIN = "origin.json"
"""File of a converted folder that tells where its weights come from."""

CONVERTED = "converted"
"""Where in the user's cache checkpoints of other projects are kept, converted."""

METHODS = ("telea", "navier-stokes", "biharmonic", "fsr")

DOMAIN = "any photo: thin holes"
"""What the methods suit, as models say it in their config."""


def shipped_models() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))

"""What a file says about its picture, and takes along when the picture is filled."""

from dataclasses import dataclass, field

from PIL import ExifTags, Image


@dataclass(frozen=True)
class About:
    """What is known of a picture beside its values; all of it is empty for arrays."""

    format: str = ""
    """Pillow's name of the file's format: PNG, JPEG, ..."""
    mode: str = ""
    """Pillow's name of the file's mode: RGB, L, P, ..."""
    orientation: int = 1
    """EXIF orientation of the file, from 1 to 8, which was applied: values are the right way up."""
    profile: bytes | None = field(default=None, repr=False)
    """ICC colour profile."""


def about(image: Image.Image) -> About:
    """Return what Pillow's image, not yet turned, says of itself."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return About(
        format=image.format or "",
        mode=image.mode,
        orientation=orientation if orientation in range(1, 9) else 1,
        profile=image.info.get("icc_profile"),
    )

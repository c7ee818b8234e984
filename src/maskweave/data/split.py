"""Which images are held back for validation."""


def is_validation(digest: str, share: float) -> bool:
    """Decide whether an image belongs to the validation split, from its content alone.

    So an image never moves to the other split when images are added or removed, and byte copies
    stay together.

    Parameters
    ----------
    digest : str
        SHA-256 of the image file in hexadecimal digits, of which the first 8 decide.
    share : float
        Expected share of images that are held back, in [0, 1].
    """
    return int(digest[:8], 16) / 2**32 < share

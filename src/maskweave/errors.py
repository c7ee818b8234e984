"""The one kind of error that users are meant to read."""


class MaskweaveError(ValueError):
    """A mistake in the input that the user can mend; the command line prints it as one line."""

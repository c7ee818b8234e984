"""A manifest of the fills that are handed out, where the user asks for one."""

import dataclasses
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np

from maskweave.errors import MaskweaveError
from maskweave.files import write_whole
from maskweave.images import Picture, read_image
from maskweave.manifest import Row, identifier, read_manifest, shared
from maskweave.progress import warn
from maskweave.web.service import Wanted
from maskweave.web.ticket import Filled
from maskweave.web.wire import lossless, written


class Records:
    """Rows that ``maskweave inpaint --replay`` repeats; photos and masks lie beside them."""

    def __init__(self, manifest: Path, version: str) -> None:
        """Go on with a manifest, or begin one.

        Parameters
        ----------
        manifest : Path
            A file called .jsonl, to which rows are added.
        version : str
            That of the package.

        Raises
        ------
        MaskweaveError
            If it is called otherwise, there is something else, or nothing can be written there.
        """
        if manifest.suffix.lower() != ".jsonl":
            raise MaskweaveError(f"rows are added to a manifest called .jsonl, got {manifest}")
        self.manifest, self.version = manifest, version
        self.folder = manifest.with_name(f"{manifest.stem}-photos").absolute()
        self._lock = Lock()
        if manifest.exists():
            read_manifest(manifest)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            manifest.touch()
        except OSError as error:
            raise MaskweaveError(f"cannot write {manifest}: {error.strerror}") from error

    def add(self, wanted: Wanted, filled: Filled, fill: int) -> None:
        """Add a row for one of the fills, if ``--replay`` can repeat it.

        It cannot repeat what changed pixels outside the hole. Whoever gets the fill gets it also if
        no row can be written, of which the user is warned.
        """
        if wanted.soften or not wanted.keep_known:
            return
        try:
            with self._lock, self.manifest.open("a", encoding="ascii") as rows:
                row = self._row(wanted, filled, fill)
                rows.write(json.dumps(dataclasses.asdict(row)) + "\n")  # type: ignore[arg-type]
        except (OSError, MaskweaveError) as error:
            warn(f"no row was added to {self.manifest}: {error}")

    def _row(self, wanted: Wanted, filled: Filled, fill: int) -> Row:
        image = self._keep(wanted.picture, "photo")
        mask = self._keep(Picture(wanted.hole.astype(np.uint8) * np.uint8(255)), "mask")
        picture, seed = filled.fills[fill][-1].image, wanted.seeds[fill]
        # With what goes along with the photo that is kept: it may have come in another format.
        picture = replace(read_image(image), values=picture.values, alpha=picture.alpha)
        kind, suffix = lossless(picture)
        digest = hashlib.sha256(written(picture, kind)).hexdigest()
        return Row(
            id=identifier(digest),
            name=digest[:16],
            image=str(image),
            mask=str(mask),
            output=digest[:16] + suffix,
            status="done",
            error=None,
            seed=seed,
            sha256=digest,
            seconds=None,
            invert=False,
            threshold=128,
            grow=0,
            quality=None,
            recipe=shared(filled.recipe(seed, [seed], 0, 0, self.version)),
        )

    def _keep(self, picture: Picture, name: str) -> Path:
        """Write a picture, named by what it holds, unless it is there; return its file."""
        kind, suffix = lossless(picture)
        content = written(picture, kind)
        file = self.folder / f"{name}-{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
        if not file.exists():
            write_whole(file, content)
        return file

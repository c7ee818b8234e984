"""``maskweave web``: the page and the routes, on this machine."""

import ipaddress
import signal
import socket
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from maskweave import __version__
from maskweave.cli.options import (
    Backend,
    Device,
    Dtype,
    ModelOrMethod,
    load_pipeline,
)
from maskweave.errors import MaskweaveError
from maskweave.models import DEFAULT_MODEL

Host = Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets others in.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")]
Browser = Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")]
MaxPixels = Annotated[
    int | None, typer.Option(min=1, max=100_000_000, help="Pixels of a photo; 25 million.")
]
Manifest = Annotated[
    Path | None,
    typer.Option(
        help="Table (.jsonl) that gets a row for each fill that is handed out; photos and masks "
        "are kept beside it.",
        metavar="FILE",
    ),
]
Queue = Annotated[int | None, typer.Option(min=0, help="Fills that may wait; 8.")]


def web(
    host: Host = "127.0.0.1",
    port: Port = 7860,
    model: ModelOrMethod = DEFAULT_MODEL,
    browser: Browser = True,
    max_pixels: MaxPixels = None,
    queue: Queue = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    backend: Backend = None,
    manifest: Manifest = None,
) -> None:
    """Open a page to paint holes on, and answer programs over HTTP: docs/http-api.md.

    Only this machine is answered unless --host says otherwise. Ctrl-C ends it.
    """
    try:
        from maskweave.web.app import make_app
        from maskweave.web.records import Records
        from maskweave.web.server import serve
        from maskweave.web.service import MAX_PIXELS, QUEUE, Service
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("maskweave"):
            raise
        raise MaskweaveError(
            f"no module {error.name}: pip install 'maskweave[web]' installs what this needs"
        ) from error
    from maskweave.classical import METHODS
    from maskweave.progress import warn

    records = None if manifest is None else Records(manifest, __version__)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # files that are kept go as well
    with suppress(KeyboardInterrupt), _listening(host, port) as listener:
        service = Service(
            model,
            # Methods without a network know neither devices nor precisions.
            load=lambda name: (
                load_pipeline(name, "auto", "float32")
                if name in METHODS
                else load_pipeline(name, device, dtype, backend)
            ),
            max_pixels=max_pixels or MAX_PIXELS,
            queue=QUEUE if queue is None else queue,
            record=records and records.add,
        )
        app = make_app(service, __version__, local=is_local(host))
        port = listener.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        if not is_local(host):
            warn(f"{host} is not only this machine: whoever reaches port {port} may fill photos")
        if records is not None:
            warn(f"photos and masks of fills that are handed out are kept in {records.folder}")
        print(f"Maskweave is at {address} (Ctrl-C ends it)", flush=True)
        if browser:  # it may wait for the page, which is not yet served
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        serve(app, listener)


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises
    ------
    MaskweaveError
        If the address is unknown or the port taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise MaskweaveError(f"cannot listen at {host}, port {port}: {reason}") from error


def is_local(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"

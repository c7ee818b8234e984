"""A server that ends without complaint and keeps no memory of photos."""

import ctypes
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

PATIENCE = 3
"""Seconds after a signal for which answers that are being sent are waited for."""

LARGE = 8_000_000
"""Bytes of memory that goes back to the system when it is let go of: photos, but not what a network
computes, which would be slower."""

M_MMAP_THRESHOLD = -3  # mallopt(3)

TIDY = 10
"""Seconds after which free memory of all threads goes back to the system."""


class Server(uvicorn.Server):
    """Cuts off pages that are still open when it ends, which is no fault to be told of."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all connections."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer at a socket until a signal ends it, which is then raised."""
    _return_memory()
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=PATIENCE)
    Server(config).run(sockets=[listener])


def _return_memory() -> None:
    """Let go of photos for good. GNU's C library would keep their memory, thread by thread."""
    with suppress(OSError, AttributeError):  # others know neither
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
        threading.Thread(target=_trim, args=(library.malloc_trim,), daemon=True).start()


def _trim(trim: Callable[[int], int]) -> None:
    while True:
        time.sleep(TIDY)
        trim(0)

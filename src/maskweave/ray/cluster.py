"""The cluster that fills, and what fits on it."""

import logging
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import ray

from maskweave.errors import MaskweaveError

OBJECT_STORE = 200_000_000
"""Bytes of the object store of a cluster of one machine: rows hold no pixels."""

BESIDE = 2
"""CPUs that do not fill: one reads and writes tables, one leaves out what a killed run has done."""

PATIENCE = 5
"""Seconds within which a cluster has to answer."""


@contextmanager
def connected(address: str) -> Generator[None]:
    """Connect to a cluster, or start one of this machine, and leave it at the end.

    Parameters
    ----------
    address : str
        ``local`` starts one; ``auto`` is the one that runs on this machine, ``host:port`` another.
        A process that has connected to one already stays with it.

    Raises
    ------
    MaskweaveError
        If it does not answer.
    """
    _check_answer(address)
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": _cores() + BESIDE, "include_dashboard": False}
        options |= {"object_store_memory": OBJECT_STORE}
    try:
        ray.init(address, **options)
    except Exception as error:  # of many kinds
        if address == "local":
            raise MaskweaveError(f"Ray does not start on this machine: {error}") from error
        raise MaskweaveError(
            f"no Ray cluster answers at {address}: {error}; one that asks for a token needs "
            "RAY_AUTH_MODE=token"
        ) from error
    logging.disable(logging.ERROR)  # Ray Data sets levels of its own whenever it starts
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        ray.shutdown()


def gpus_of(device: str) -> int:
    """Return how many GPUs a worker needs that fills on a device, as ``--device`` names it."""
    automatic = device == "auto" and ray.cluster_resources().get("GPU", 0) >= 1
    return int(automatic or device.startswith("cuda"))


def room_for(num_gpus: float) -> int:
    """Return how many workers fit on the cluster, at least one."""
    has = ray.cluster_resources()
    room = has.get("GPU", 0) / num_gpus if num_gpus else has.get("CPU", 0) - BESIDE
    return max(1, int(room))


def check_room() -> None:
    """Raise MaskweaveError if a cluster has too few CPUs, which would wait for each other."""
    if (cpus := ray.cluster_resources().get("CPU", 0)) < 1 + BESIDE:
        raise MaskweaveError(
            f"a cluster needs at least {1 + BESIDE} CPUs, this one tells of {cpus:.0f}: "
            "ray start --num-cpus says how many it has"
        )


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone has it
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_answer(address: str) -> None:
    """Find out at once whether anybody listens: Ray tries for minutes and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        if address not in ("local", "auto"):
            raise MaskweaveError(f"a Ray cluster is local, auto or host:port, got {address!r}")
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, ValueError) as error:
        raise MaskweaveError(f"no Ray cluster answers at {address}: {error}") from error

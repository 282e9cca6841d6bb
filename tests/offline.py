"""A network with nothing in it but this machine: what works there needs no other."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

# Of <sched.h>, <linux/sockios.h> and <net/if.h>.
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


@contextmanager
def offline() -> Iterator[None]:
    """Inside, this thread and what it starts, threads and processes, reach nothing but loopback.

    What listened before is out of reach, too, and every port is free. Skips the test where that is
    not permitted; in CI that is a failure.
    """
    if sys.platform != "linux":
        pytest.skip("only Linux has network namespaces")
    libc = ctypes.CDLL(None, use_errno=True)
    outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET):
            _give_up(f"no network namespace of our own: {os.strerror(ctypes.get_errno())}")
        try:
            _bring_loopback_up()
            yield
        finally:
            assert libc.setns(outside, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(outside)


def _bring_loopback_up() -> None:
    request = struct.pack("16sh22x", b"lo", _IFF_UP)  # a struct ifreq
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def _give_up(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)

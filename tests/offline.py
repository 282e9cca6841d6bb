"""Runs tests in a network namespace without other machines, to prove that they need no network."""

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

# These constants are from <sched.h>, <linux/sockios.h> and <net/if.h>.
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


@contextmanager
def offline() -> Iterator[None]:
    """Moves this thread, and what it starts, into a network namespace with only loopback.

    In the namespace, every port is free, and servers that ran before are unreachable. Skips the
    test if the system does not permit a network namespace; if the variable `CI` is set, fails
    instead.
    """
    if sys.platform != "linux":
        pytest.skip("only Linux has network namespaces")
    libc = ctypes.CDLL(None, use_errno=True)
    original = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET):
            _skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        try:
            _bring_loopback_up()
            yield
        finally:
            assert libc.setns(original, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(original)


def _bring_loopback_up() -> None:
    request = struct.pack("16sh22x", b"lo", _IFF_UP)  # the C struct ifreq
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


def _skip(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)

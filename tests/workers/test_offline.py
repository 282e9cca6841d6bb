"""Tests that the network namespace, in which the tests of this folder run, has only loopback."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.node, pytest.mark.usefixtures("no_network")]

OUTSIDE = ("192.0.2.1", 80)  # an unused address, reserved by RFC 5737
CONNECT = f"import socket; socket.create_connection({OUTSIDE})"


def test_the_test_process_cannot_reach_other_machines() -> None:
    with pytest.raises(OSError) as caught:
        socket.create_connection(OUTSIDE)
    assert caught.value.errno == errno.ENETUNREACH


def test_a_child_process_cannot_reach_other_machines() -> None:
    done = subprocess.run([sys.executable, "-c", CONNECT], capture_output=True, text=True)
    assert "Network is unreachable" in done.stderr


def test_loopback_works() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname()).close()

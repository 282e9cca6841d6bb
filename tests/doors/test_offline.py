"""The network that the tests of this folder are in."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.node, pytest.mark.usefixtures("alone")]

OUTSIDE = ("192.0.2.1", 80)  # nobody's, by RFC 5737
CONNECT = f"import socket; socket.create_connection({OUTSIDE})"


def test_nothing_outside_is_within_reach() -> None:
    with pytest.raises(OSError) as caught:
        socket.create_connection(OUTSIDE)
    assert caught.value.errno == errno.ENETUNREACH


def test_nothing_outside_is_within_reach_of_a_child() -> None:
    done = subprocess.run([sys.executable, "-c", CONNECT], capture_output=True, text=True)
    assert "Network is unreachable" in done.stderr


def test_this_machine_is_within_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname()).close()

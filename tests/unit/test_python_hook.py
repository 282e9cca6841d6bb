"""Tests the `sitecustomize.py` of `exec` if modules have been imported before it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import trustme
from workers_ai_emulator.interception import hooks

HOOK = Path(next(iter(hooks.__path__)), "sitecustomize.py")


def run(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that executes the hook as `hook()`."""
    prefix = f"import runpy, sys\ndef hook(): runpy.run_path({str(HOOK)!r})\n"
    address = {"WORKERS_AI_EMULATOR_TLS_ADDRESS": "127.0.0.1:1"}
    return subprocess.run(
        [sys.executable, "-c", prefix + program],
        env=os.environ | address | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_programs_that_import_ssl_before_the_hook_trust_the_authority(tmp_path: Path) -> None:
    authority, users = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    users.cert_pem.write_to_path(tmp_path / "users.pem")
    program = f"""
import ssl
hook()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations({str(tmp_path / "users.pem")!r})
print(len(context.get_ca_certs()))
"""
    variables = {"WORKERS_AI_EMULATOR_AUTHORITY": str(tmp_path / "authority.pem")}
    assert run(program, **variables).stdout == "2\n"


def test_the_warning_about_two_modules_that_were_imported_before_is_printed_once() -> None:
    done = run("sys.modules['aiohttp'] = sys.modules['uvloop'] = sys\nhook()")
    assert done.stderr.count("aiohttp on uvloop is not redirected") == 1

"""Recognises commands that ignore the environment variables of `exec` and may call Cloudflare."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

_PYTHON = re.compile(r"(?:python|pypy)[\d.]*")
_OPTIONS_WITH_VALUES = "WX"
_HIDING_OPTIONS = "EIS"  # with these options, Python ignores PYTHONPATH or sitecustomize.py
_HIDING_COMMANDS = {
    "java": "java reads no proxy from the environment",
    "sudo": "sudo removes variables from the environment",
    "docker": "docker does not pass the environment to the container",
    "podman": "podman does not pass the environment to the container",
    "ssh": "ssh does not pass the environment to the other machine",
}


def warning_for(command: Sequence[str]) -> str | None:
    """Returns a warning if a command may bypass the emulator and call the real Cloudflare API.

    Returns None for all other commands. Checks only the command's name and options: the programs
    that the command starts are not checked.
    """
    name = PurePath(command[0]).name
    if reason := _HIDING_COMMANDS.get(name):
        return f"{reason}, so its programs may call Cloudflare itself"
    if _PYTHON.fullmatch(name) and (option := _hiding_option(command[1:])):
        return (
            f"python -{option} does not load the redirection, so clients that use no proxy, such "
            "as aiohttp without trust_env, call Cloudflare itself"
        )
    return None


def _hiding_option(arguments: Sequence[str]) -> str | None:
    """Returns the letter of the first option with which Python ignores the hook of `exec`.

    Returns None if there is no such option. `arguments` are the arguments of Python.
    """
    words = iter(arguments)
    for word in words:
        if not word.startswith("-") or word in ("-", "--"):
            return None
        if word.startswith("--"):
            continue
        for position, letter in enumerate(word[1:], start=1):
            if letter in _HIDING_OPTIONS:
                return letter
            if letter in "cm":  # after -c or -m, all words belong to the program
                return None
            if letter in _OPTIONS_WITH_VALUES:
                if position == len(word) - 1:
                    next(words, None)
                break
    return None

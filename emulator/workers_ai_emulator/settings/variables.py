"""Finds environment variables that have the emulator's prefix, but belong to no setting."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches

from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.settings.declaration import env_var

_PREFIX = env_var("")
# Variables that other parts of the project read: `worker`, pytest, npm, and the programs that
# `exec` runs.
_OTHERS = {"ACCOUNT", "ADDRESS", "AUTHORITY", "COMMAND", "TLS_ADDRESS", "URL"}
# Variables of a Kubernetes service or a linked Docker container with the emulator's name, and of
# our tests.
_FOREIGN = re.compile(
    r"PORT_\d+_(TCP|UDP|SCTP)(_.*)?|SERVICE_(HOST|PORT)(_.*)?|TEST_.*|NAME|ENV_.*"
)
# How similar a misspelt name is at least, from 0 to 1.
_SIMILARITY = 0.75


def unknown_variables(variables: Iterable[str], flags: Collection[str]) -> list[str]:
    """Returns the names of variables with our prefix that no setting has.

    `flags`: the names of all flags. Leaves out variables that other programs set. Raises
    SettingInvalid if the name is a misspelling of the variable of a setting.
    """
    known = {env_var(flag).removeprefix(_PREFIX) for flag in flags} | _OTHERS
    unknown = []
    for variable in sorted(variables):
        name = variable.removeprefix(_PREFIX)
        if name == variable or name in known or _FOREIGN.fullmatch(name):
            continue
        if near := get_close_matches(name, sorted(known), n=1, cutoff=_SIMILARITY):
            raise SettingInvalid(
                f"no setting has the variable {variable}: did you mean {_PREFIX}{near[0]}?"
            )
        unknown.append(variable)
    return unknown

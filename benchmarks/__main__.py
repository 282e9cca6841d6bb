"""Runs the benchmarks. Writes tables to stdout and progress to stderr."""

from __future__ import annotations

import argparse
import logging
import random
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks import (
    ceiling,
    comparison,
    conversation,
    determinism,
    embeddings,
    endurance,
    grammar,
    install,
    lone,
    projection,
    scripted,
    start,
    true_size,
)
from benchmarks.attack import report as attack
from benchmarks.conditions import Conditions

PARTS: dict[str, Callable[[Conditions], Iterator[str]]] = {
    "start": start.report,
    "scripted": scripted.report,
    "lone": lone.report,
    "servers": comparison.report,
    "ceiling": ceiling.report,
    "grammar": grammar.report,
    "conversation": conversation.report,
    "determinism": determinism.report,
    "embeddings": embeddings.report,
    "endurance": endurance.report,
}
# The attack runs only if the command line names it. The flag `--minutes` sets its duration.
ATTACK: dict[str, Callable[[Conditions], Iterator[str]]] = {"attack": attack.report}
# Each of these parts runs only if the command line names it. It writes a file of 7 or 13 GB (the
# projection writes both), needs as much memory, and takes up to half an hour.
LARGE_PARTS: dict[str, Callable[[Conditions], Iterator[str]]] = {
    "true-size": true_size.report,
    "true-size-f16": partial(true_size.report, weights_type="F16"),
    "projection": projection.report,
}
# Runs only if the command line names it, because it compiles llama.cpp in each round.
INSTALL: dict[str, Callable[[Conditions], Iterator[str]]] = {"install": install.report}
ON_REQUEST = ATTACK | LARGE_PARTS | INSTALL
_QUICK_MINUTES = 2


def main() -> None:
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s")
    for name in ("workers_ai_emulator", "gguf", "httpx"):
        logging.getLogger(name).setLevel("WARNING")
    arguments = _arguments()
    # On SIGTERM, raises SystemExit, so that the `with` blocks of the running benchmark stop the
    # servers and clients that they started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    conditions = Conditions.here(
        num_rounds=1 if arguments.quick else arguments.rounds,
        is_quick=arguments.quick,
        minutes=_QUICK_MINUTES if arguments.quick else arguments.minutes,
        seed=arguments.seed,
    )
    print(conditions.description, flush=True)
    for part in arguments.parts or PARTS:
        print(f"\n## {part}", flush=True)
        for paragraph in (PARTS | ON_REQUEST)[part](conditions):
            print(f"\n{paragraph}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    choices = f"{', '.join(PARTS)} (default: all of these); {', '.join(ON_REQUEST)}"
    parser.add_argument("parts", nargs="*", metavar="part", help=choices)
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="runs of each measurement; tables show medians (default: 3)",
    )
    parser.add_argument("--quick", action="store_true", help="one run of each, with fewer requests")
    parser.add_argument(
        "--minutes", type=float, default=20, help="duration of the part attack (default: 20)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=random.randrange(2**16),
        help="seed of the part attack, as an earlier run printed it (default: random)",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - (PARTS | ON_REQUEST).keys():
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.minutes <= 0:
        parser.error("--minutes must be more than 0")
    return arguments


if __name__ == "__main__":
    main()

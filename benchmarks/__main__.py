"""Runs the benchmarks. Writes tables to stdout and progress to stderr."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks import (
    ceiling,
    comparison,
    conversation,
    determinism,
    endurance,
    scripted,
    start,
    true_size,
)
from benchmarks.conditions import Conditions

PARTS: dict[str, Callable[[Conditions], Iterator[str]]] = {
    "start": start.report,
    "scripted": scripted.report,
    "servers": comparison.report,
    "ceiling": ceiling.report,
    "conversation": conversation.report,
    "determinism": determinism.report,
    "endurance": endurance.report,
}
# These parts run only if the command line names them. They write files of 7 and 13 GB, need as much
# memory, and take half an hour each.
LARGE_PARTS: dict[str, Callable[[Conditions], Iterator[str]]] = {
    "true-size": true_size.report,
    "true-size-f16": partial(true_size.report, weights_type="F16"),
}


def main() -> None:
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s")
    for name in ("workers_ai_emulator", "gguf", "httpx"):
        logging.getLogger(name).setLevel("WARNING")
    arguments = _arguments()
    conditions = Conditions.here(
        num_rounds=1 if arguments.quick else arguments.rounds, is_quick=arguments.quick
    )
    print(conditions.description, flush=True)
    for part in arguments.parts or PARTS:
        print(f"\n## {part}", flush=True)
        for paragraph in (PARTS | LARGE_PARTS)[part](conditions):
            print(f"\n{paragraph}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    choices = f"{', '.join(PARTS)} (default: all of these); {', '.join(LARGE_PARTS)}"
    parser.add_argument("parts", nargs="*", metavar="part", help=choices)
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="runs of each measurement; tables show medians (default: 3)",
    )
    parser.add_argument("--quick", action="store_true", help="one run of each, with fewer requests")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - (PARTS | LARGE_PARTS).keys():
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


if __name__ == "__main__":
    main()

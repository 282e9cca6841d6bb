"""The command line of the benchmarks. Tables go to stdout, progress to stderr."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator

from benchmarks import ceiling, comparison, conversation, determinism, endurance, start
from benchmarks.conditions import Conditions

PARTS: dict[str, Callable[[Conditions], Iterator[str]]] = {
    "start": start.report,
    "servers": comparison.report,
    "ceiling": ceiling.report,
    "conversation": conversation.report,
    "determinism": determinism.report,
    "endurance": endurance.report,
}


def main() -> None:
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s")
    for name in ("emulator", "httpx"):
        logging.getLogger(name).setLevel("WARNING")
    arguments = _arguments()
    conditions = Conditions.here(
        num_rounds=1 if arguments.quick else arguments.rounds, is_quick=arguments.quick
    )
    print(conditions.description, flush=True)
    for part in arguments.parts or PARTS:
        print(f"\n## {part}", flush=True)
        for paragraph in PARTS[part](conditions):
            print(f"\n{paragraph}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; or all")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, for a median (3)")
    parser.add_argument("--quick", action="store_true", help="one round, with fewer requests")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    if arguments.rounds < 1:
        parser.error("--rounds takes at least 1")
    return arguments


if __name__ == "__main__":
    main()

"""Runs the command `workers-ai-emulator` when called as `python -m workers_ai_emulator`."""

from workers_ai_emulator.cli import main

main()

"""`python -m workers_ai_emulator` is the command `workers-ai-emulator`."""

from workers_ai_emulator.cli import main

main()

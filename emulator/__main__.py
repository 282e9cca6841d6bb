"""`python -m emulator` is the command `workers-ai-emulator`."""

from emulator.cli import main

main()

"""Models' tasks: their inputs and their outputs."""

"""The formats in which models write tool calls and their reasoning."""

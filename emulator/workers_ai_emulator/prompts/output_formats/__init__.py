"""The formats in which the families of models write tool calls and their reasoning."""

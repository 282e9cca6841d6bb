"""The sources of completions: a local model, a script, or another server."""

"""The backends, which generate completions with a local model, a script or another server."""

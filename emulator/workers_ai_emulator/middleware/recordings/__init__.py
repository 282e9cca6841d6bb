"""Recordings: files with an inference call and its response, for replay without a model."""

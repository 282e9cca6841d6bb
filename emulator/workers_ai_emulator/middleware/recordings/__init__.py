"""Calls and their answers in files: what is the same call, what is stored, what is nearest."""

"""Attacks a server while ordinary clients use it, and checks the responses to these clients."""

"""Attacks a server while other clients use it, and checks the responses to the other clients."""

"""Attacks a server while ordinary clients use it, and checks that their responses are right."""

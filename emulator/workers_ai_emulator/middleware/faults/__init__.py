"""Faults: errors and broken streams that a user requests for tests."""

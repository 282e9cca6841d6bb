"""Recordings: one file for each inference call and its response, written and replayed."""

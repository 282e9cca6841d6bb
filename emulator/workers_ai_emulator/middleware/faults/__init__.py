"""Faults on demand: the rules that choose them, and the middleware that applies them."""

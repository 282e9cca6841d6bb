"""The journal: the last inference calls, in memory and within bounds."""

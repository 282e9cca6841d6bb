"""The journal: the most recent inference calls and their responses, stored in memory."""

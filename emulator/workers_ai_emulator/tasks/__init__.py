"""One file per kind of task that a model can do."""

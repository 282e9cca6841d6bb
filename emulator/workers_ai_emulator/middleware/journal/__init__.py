"""The last calls: taken down as they pass, kept within bounds, and told."""

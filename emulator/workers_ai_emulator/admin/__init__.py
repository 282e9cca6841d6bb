"""The emulator's own endpoints, under /_emulator/: health, metrics, faults, and the dashboard."""

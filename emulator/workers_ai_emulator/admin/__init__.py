"""The emulator's own endpoints, under /_emulator/: health, metrics, control, and the dashboard."""

"""Declares the settings of `workers-ai-emulator serve`, and converts flags to settings."""

from workers_ai_emulator.settings.settings import BackendName, Settings

__all__ = ["BackendName", "Settings"]

"""The settings of `workers-ai-emulator serve`: one declaration of each, and their values."""

from workers_ai_emulator.settings.settings import Settings

__all__ = ["Settings"]

"""The licences that several models share."""

from __future__ import annotations

from workers_ai_emulator.models.spec import License

APACHE = License(
    "Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0", needs_acceptance=False
)
MIT = License("MIT License", "https://opensource.org/license/mit", needs_acceptance=False)
GEMMA = License("Gemma Terms of Use", "https://ai.google.dev/gemma/terms")

"""Rules for the backend `scripted` that answer the programs and Workers that ask for the weather.

The programs ask the questions in tests/clients/programs/weather.json.
"""

from __future__ import annotations

from tests.clients.client import PROGRAMS

QUESTIONS = PROGRAMS / "weather.json"
REASONING = "I need both temperatures."
REPORT = {"city": "Paris", "sky": "sunny", "is_warm": True}
PARIS, OSLO = (["get_temperature", {"city": city}] for city in ("Paris", "Oslo"))
SCRIPT = [
    {
        "contains": "Which city is warmer",
        "last_role": "user",
        "reasoning": REASONING,
        "tool_calls": [{"name": "get_temperature", "arguments": {"city": "Paris"}}],
    },
    {
        "contains": "21",
        "last_role": "tool",
        "tool_calls": [{"name": "get_temperature", "arguments": {"city": "Oslo"}}],
    },
    {"contains": "-4", "last_role": "tool", "answer": "Paris is warmer."},
    {"contains": "How is", "reasoning": "It is summer.", "answer": "It is sunny in Paris."},
    # langchain-cloudflare asks gpt-oss and Gemma for JSON, and offers a tool to the others.
    {"contains": "as a Report", "model": "@cf/openai/*", "json": REPORT},
    {"contains": "as a Report", "model": "@cf/google/*", "json": REPORT},
    {"contains": "as a Report", "tool_calls": [{"name": "Report", "arguments": REPORT}]},
    {"contains": "Report the weather", "json": REPORT},
]

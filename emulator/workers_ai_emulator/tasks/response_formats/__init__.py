"""Writes completions in the response formats of Workers AI, of its SDKs and of OpenAI."""

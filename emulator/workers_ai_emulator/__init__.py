"""A local server that emulates Cloudflare Workers AI's text generation."""

__version__ = "0.1.0"

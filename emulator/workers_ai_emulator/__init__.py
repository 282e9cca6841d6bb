"""A local server that answers Cloudflare Workers AI's text-generation calls."""

__version__ = "0.1.0"

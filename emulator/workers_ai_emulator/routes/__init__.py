"""The routes of Cloudflare's API, AI Gateway and bindings: one module for each group."""

"""The routes of Cloudflare's API, of AI Gateway and of Workers' AI bindings."""

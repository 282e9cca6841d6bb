"""A program whose calls to Cloudflare come here: by a proxy, by hooks, by its environment."""

"""Makes the emulator receive the requests that a program sends to Cloudflare's API."""

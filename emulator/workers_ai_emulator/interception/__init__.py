"""Redirects the requests that a program sends to Cloudflare's API to the emulator."""

"""Redirects a program's requests for Cloudflare to the emulator."""

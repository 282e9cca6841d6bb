"""ASGI middleware around the routes. `app.py` lists it in order. It imports no routes."""

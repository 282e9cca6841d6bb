"""The ASGI middleware through which requests reach the routes. `app.py` sets their order."""

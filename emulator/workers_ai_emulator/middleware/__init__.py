"""The ASGI middleware, which handles requests before the routes. `app.py` defines its order."""

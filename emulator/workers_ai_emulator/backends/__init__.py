"""What a request's text can come from: a model that runs here, a script, another server."""

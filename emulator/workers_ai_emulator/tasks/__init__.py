"""The task of text generation: validates requests and formats responses."""

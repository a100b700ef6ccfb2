"""Answers HTTP requests with models from the store, on Ray Serve."""

"""A player behind an OpenAI-compatible server."""

"""A language model behind an OpenAI-compatible endpoint (`spiral serve`)."""

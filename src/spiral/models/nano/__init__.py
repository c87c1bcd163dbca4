"""The built-in model: its weights, and how they were made."""

"""The built-in model that thinks for a reason: its weights, and how they were made."""

"""A run on disk and in numbers: its recipe, directory, evaluations and summary."""

"""SPIRAL: language models that learn to reason by playing zero-sum games against themselves."""

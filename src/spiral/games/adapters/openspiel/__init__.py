"""OpenSpiel's games by name."""

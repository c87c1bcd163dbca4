"""TextArena's two-player games."""

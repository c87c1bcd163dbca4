"""TextArena's games for two players and more."""

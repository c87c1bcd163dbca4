"""Our games in other people's training frameworks."""

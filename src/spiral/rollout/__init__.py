"""Playing games: the game loop, who plays whom, and the games of a training step."""

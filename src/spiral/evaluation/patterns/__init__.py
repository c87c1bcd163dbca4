"""Which patterns of reasoning a model's games and solutions of problems show, and which move from one to the other."""

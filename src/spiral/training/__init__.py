"""Training: from episodes to advantages, a batch, a gradient and an update."""

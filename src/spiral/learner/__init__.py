"""The learner: from a batch to a gradient and an update."""

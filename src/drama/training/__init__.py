"""Training: the loop, optimisers, metrics, checkpoints and run directories."""

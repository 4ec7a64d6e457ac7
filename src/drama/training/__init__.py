"""Training: the loop, its learner and collector, logs, checkpoints and run directories."""

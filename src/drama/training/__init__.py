"""One visible loop, and what it needs: optimiser, logs, checkpoints, run directories."""

"""Scripts that regenerate the numbers and pictures in README and docs."""

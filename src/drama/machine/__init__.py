"""This machine: what training would use on it, and what it costs in time and memory."""

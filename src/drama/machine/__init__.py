"""This machine: the device and settings of training on it, and its cost in time and memory."""

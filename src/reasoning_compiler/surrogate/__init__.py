"""Predicting a program's latency without running it, and how far to trust that."""

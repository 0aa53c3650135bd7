"""Whether a program computes what it should."""

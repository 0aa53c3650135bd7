"""When to stop timing a program, and which of two is faster."""

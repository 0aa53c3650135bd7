"""The processes that build and run programs, and may die."""

"""Building, racing, timing and verifying programs, in worker processes that may die."""

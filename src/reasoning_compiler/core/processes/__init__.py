"""Child processes: how they start, answer, are supervised, and end."""

"""Rules: each file or folder here is one way to treat a block of a kernel, whole; see `rule.py` for what that is."""

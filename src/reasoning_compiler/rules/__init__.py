"""Our own schedule rules, a file each; `rules/registry.py` lists those that every space of ours has."""

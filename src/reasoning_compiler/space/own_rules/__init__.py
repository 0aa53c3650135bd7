"""Our own schedule rules, a file each; `space/rules.py` lists those that every space of ours has."""

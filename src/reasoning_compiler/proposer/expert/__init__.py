"""The embedded default: proposals from knowledge of the machine, with no model, key or network."""

from reasoning_compiler.proposer.expert.expert import Expert

__all__ = ["Expert"]

"""The embedded default: proposals from knowledge of the machine, with no model, key or network."""

from reasoning_compiler.proposer.expert.expert import Expert
from reasoning_compiler.proposer.expert.start import ExpertSpace

__all__ = ["Expert", "ExpertSpace"]

"""What a run has to say: its journal, turned into numbers and text."""

from __future__ import annotations

from reasoning_compiler.report.summary import Summary, summarize
from reasoning_compiler.report.text import session_text, to_json, to_text

__all__ = ["Summary", "session_text", "summarize", "to_json", "to_text"]

"""The records of a call to a language model: what is asked, what comes back, what fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reasoning_compiler.core.records import Record
from reasoning_compiler.proposer.llm.prices import Usage

CallFailureKind = Literal[
    "timeout",  # no whole answer in time
    "rate_limit",  # too many requests, also after waiting
    "server",  # the provider failed (5xx)
    "connection",  # refused, reset, dropped
    "unreachable",  # no connection could be made, and none ever has been
    "protocol",  # an answer that is not of the provider's protocol
    "context_window",  # the prompt is too long for the model
    "rejected",  # the provider rejects the request (4xx)
    "content_filter",  # the provider withheld the answer
    "auth",  # the key is missing, wrong, or not allowed to do this
    "unknown_model",  # the provider does not have the model
    "quota",  # the account has no credit left
    "closed",  # the run ended while the call was under way
]
SETUP_KINDS = ("auth", "unknown_model", "quota", "unreachable")
"""Failures that no later call will mend."""

Role = Literal["system", "user", "assistant"]
CHARS_PER_TOKEN = 3
"""Low for prose, about right for code and numbers: a budget had better count too many than too few."""


@dataclass(frozen=True)
class Message(Record):
    """One message of a conversation with a model."""

    role: Role
    text: str


@dataclass(frozen=True)
class Attempt(Record):
    """A try of a call that failed.

    Args:
        kind: what kind of failure.
        message: the provider's words, without keys, shortened.
        wait_secs: the wait before the next try; 0 for the last one.
    """

    kind: CallFailureKind
    message: str
    wait_secs: float = 0.0


@dataclass(frozen=True)
class Reply:
    """A model's answer.

    Args:
        text: all of its text; may be empty.
        finish: why it ended: "stop", "length", "content_filter", or "cut_off" by a timeout or a dropped line.
        usage: its tokens.
        latency_secs: from the first try to the whole answer, waits included.
        attempts: the tries that failed before.
    """

    text: str
    finish: str
    usage: Usage
    latency_secs: float
    attempts: tuple[Attempt, ...] = ()


@dataclass(frozen=True)
class CallFailure:
    """Why there is no answer: of one try, or of the last one of a call.

    Args:
        kind: what kind of failure.
        message: one line for a person, without keys.
        words: what the server says, whole and as it is.
        latency_secs: from the first try to giving up.
        attempts: all tries.
        retry_after_secs: what the provider asks to wait before the next call; None where it does not say.
        sent: the provider may have worked on it, and may charge for it.
        passing: it may be tried again.
        adapted: it is tried again at once, with other settings.
    """

    kind: CallFailureKind
    message: str
    words: str = ""
    latency_secs: float = 0.0
    attempts: tuple[Attempt, ...] = ()
    retry_after_secs: float | None = None
    sent: bool = False
    passing: bool = False
    adapted: bool = False


def prompt_hash(messages: Sequence[Message]) -> str:
    """Returns 16 hexadecimal digits that name a conversation, the same in every process."""
    text = json.dumps([[m.role, m.text] for m in messages], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def estimate_tokens(text: str) -> int:
    """Returns about how many tokens a text has; rather too many than too few."""
    return -(-len(text) // CHARS_PER_TOKEN)

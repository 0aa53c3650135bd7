"""From what a provider's package raises to the kind of a failure and the server's own words."""

from __future__ import annotations

import re

from reasoning_compiler.proposer.llm.calls import CallFailure, CallFailureKind
from reasoning_compiler.proposer.llm.scrub import Scrubber
from reasoning_compiler.proposer.llm.values import clip

_CONTEXT_WORDS = re.compile(
    r"context.{0,20}(length|window|size)|maximum context|(prompt|input|request) (is )?too (long|large)", re.I
)
_MODEL_WORDS = re.compile(r"model.{0,80}(not found|not exist|not a valid|unknown|not supported|unavailable)", re.I)
_QUOTA_WORDS = re.compile(r"insufficient_quota|credit balance|billing|exceeded your current quota", re.I)
_TITLE = re.compile(r"<title>(.+?)</title>", re.I | re.S)


def classify(error: Exception, scrubber: Scrubber, *, reached: bool) -> CallFailure:
    """Returns the failure that an exception of pydantic-ai's or a provider's package stands for.

    Args:
        error: what was raised.
        scrubber: takes keys out of the message.
        reached: whether the server has been connected to before.
    """
    from pydantic_ai import exceptions

    status = getattr(error, "status_code", None)
    words = _words(error)
    message = " ".join(scrubber.scrub(clip(words, 300)).split())
    if isinstance(error, exceptions.ModelConnectionError) and error.phase == "connect" and not reached:
        return CallFailure("unreachable", message)
    if isinstance(error, exceptions.ContentFilterError):
        return CallFailure("content_filter", message, sent=True)
    if isinstance(status, int):
        kind, passing = _kind_of_status(status, words)
        retry_after = getattr(error, "retry_after", None)
        return CallFailure(
            kind, f"{status}: {message}", words, retry_after_secs=retry_after if passing else None, passing=passing
        )
    if isinstance(error, exceptions.ModelTimeoutError) and error.phase not in ("connect", "pool"):
        return CallFailure("timeout", message, sent=True)
    if isinstance(error, exceptions.ModelConnectionError):
        return CallFailure("connection", message, passing=True, sent=error.phase == "read")
    return CallFailure("protocol", message, passing=True, sent=True)


def _kind_of_status(status: int, words: str) -> tuple[CallFailureKind, bool]:
    """Returns the kind of failure of an HTTP status, and whether it may pass."""
    if status == 402 or (status in (400, 403, 429) and _QUOTA_WORDS.search(words)):
        return "quota", False
    if status in (401, 403):
        return "auth", False
    if status == 429:
        return "rate_limit", True
    if status in (408, 409, 425) or status >= 500:
        return "server", True
    if status == 413 or _CONTEXT_WORDS.search(words):
        return "context_window", False
    if status == 404 or _MODEL_WORDS.search(words):
        return "unknown_model", False
    return "rejected", False


def _words(error: Exception) -> str:
    """Returns what the server says of an error, without the wrapping."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        inner = body["error"] if isinstance(body.get("error"), dict) else body
        said = [str(inner[k]) for k in ("message", "code") if inner.get(k) and not isinstance(inner[k], int)]
        if said:
            return " ".join(said)
    words = str(body or error) or type(error).__name__
    if not words.lstrip().startswith("<"):
        return words
    title = _TITLE.search(words)  # a proxy's page
    return title[1] if title else re.sub(r"<[^>]*>", " ", words)

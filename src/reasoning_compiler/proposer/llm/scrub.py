"""Keeps keys out of everything that is written or shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_MIN_SECRET_CHARS = 8
_SECRET_SHAPES = re.compile(
    r"\bsk-[\w-]{12,}|\bAIza[\w-]{20,}|\bgh[pousr]_\w{20,}|\bhf_\w{20,}|\bxai-\w{20,}"
    r"|(?<=\bbearer )[\w.~+/=-]{8,}|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)",
    re.IGNORECASE,
)
HIDDEN = "[key]"


def is_secret_name(name: str) -> bool:
    """Returns whether something of that name is probably a key."""
    return _SECRET_NAME.search(name) is not None


class Scrubber:
    """Replaces keys in texts: those of the environment when it is made, and what has the shape of a key.

    Args:
        environ: the environment to take known keys from.
        extra: further texts to hide.
    """

    def __init__(self, environ: Mapping[str, str] | None = None, *, extra: tuple[str, ...] = ()) -> None:
        environ = os.environ if environ is None else environ
        known = [value for name, value in environ.items() if is_secret_name(name)]
        # The longest first: one key may be the beginning of another.
        secrets = {v for v in (*known, *extra) if len(v) >= _MIN_SECRET_CHARS and not v.isdecimal()}
        self._known = sorted(secrets, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"Scrubber({len(self._known)} known keys)"

    def scrub(self, text: str) -> str:
        """Returns the text with every key replaced."""
        for secret in self._known:
            text = text.replace(secret, HIDDEN)
        return _SECRET_SHAPES.sub(HIDDEN, text)

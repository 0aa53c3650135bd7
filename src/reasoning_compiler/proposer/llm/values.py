"""A decision's value as a model writes it, and texts of bounded length."""

from __future__ import annotations

import math
import re
from typing import Any

from reasoning_compiler.core.programs import ChoiceDomain, TileDomain, Value

_NUMBERS_ONLY = re.compile(r"[\s\d.,;xX×*+\[\]()-]*", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,18}(?:\.0{0,18})?", re.ASCII)
_SPACE = re.compile(r"[\s\"'`]+")


def clip(text: str, max_chars: int) -> str:
    """Returns the text, or its beginning and its end where it is longer than `max_chars`."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= max_chars:
        return text
    gap = " […] "
    head = (max_chars - len(gap)) // 3
    return text[:head] + gap + text[len(text) - (max_chars - len(gap) - head) :]


def shown(value: Any, max_chars: int = 80) -> str:
    """Returns a short, single-line text for a value of a program or of an answer."""
    if isinstance(value, tuple | list):
        value = f"[{', '.join(shown(v, 20) for v in value[:16])}{', …' if len(value) > 16 else ''}]"
    elif isinstance(value, dict):
        value = "{" + ", ".join(f"{k}: {shown(v, 40)}" for k, v in list(value.items())[:8]) + "}"
    return " ".join(clip(str(value), max_chars).split())


def coerce(domain: TileDomain | ChoiceDomain, raw: Any) -> Value | None:
    """Returns `raw` as a value of the domain's type, None where it cannot be one.

    The value may lie outside the domain: that is for `why_not` to say.
    """
    if isinstance(raw, str) and not (isinstance(domain, ChoiceDomain) and raw in domain.values):
        raw = re.split(r"->|→", raw[-400:])[-1].strip()  # "[4, 16] -> [8, 8]" means the second
    if isinstance(domain, TileDomain):
        if isinstance(raw, str) and _NUMBERS_ONLY.fullmatch(raw):
            raw = re.findall(r"[+-]?[\d.]+", raw, re.ASCII)
        elif domain.num_factors == 1 and not isinstance(raw, list):
            raw = [raw]
        if not isinstance(raw, list) or not raw or len(raw) > 64:
            return None
        factors = tuple(_integer(f) for f in raw)
        return None if None in factors else factors
    return _choice(domain, raw[0] if isinstance(raw, list) and len(raw) == 1 else raw)


def _choice(domain: ChoiceDomain, raw: Any) -> Value | None:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        return None
    number = _integer(raw)
    if number is None and isinstance(raw, float):
        return None
    wanted = raw if number is None else number
    if wanted in domain.values:
        return wanted
    for text in (str(raw), str(raw).partition("(")[0]):
        plain = plain_name(text)
        named = [v for v in domain.values if plain_name(str(v)) == plain]
        labelled = [domain.values[i] for i, w in enumerate(domain.labels) if plain_name(w) == plain]
        alike = named or labelled
        if plain and len(alike) == 1:
            return alike[0]
    return wanted


def _integer(raw: Any) -> int | None:
    if isinstance(raw, bool):
        return None
    if isinstance(raw, float):
        return int(raw) if math.isfinite(raw) and raw.is_integer() and abs(raw) < 1e15 else None
    if isinstance(raw, str):
        return int(raw.strip().partition(".")[0]) if _INTEGER.fullmatch(raw.strip()) else None
    return raw if isinstance(raw, int) else None


def free_value(raw: Any) -> Value | None:
    """Returns `raw` as a value of a decision of unknown domain, None where no decision could take it."""
    if isinstance(raw, list):
        factors = tuple(_integer(f) for f in raw[:64])
        return None if None in factors or not factors else factors
    if isinstance(raw, str):
        return clip(raw, 200)
    return _integer(raw)


def plain_name(text: str) -> str:
    """Returns a name without what models get wrong in names: case, spaces and quotes."""
    return _SPACE.sub("", text).casefold()

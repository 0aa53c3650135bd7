"""Reads JSON the way language models write it: in prose, with comments, in Python's notation, or cut off.

A hand-written reader rather than `json` and `ast`: one pass accepts every mixture of these, it cannot
evaluate anything, and its work is bounded whatever the text holds.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 12
MAX_STEPS = 400_000
"""Tokens read for one text, failed attempts included."""
MAX_NUMBER_DIGITS = 40

_OPENING = re.compile(r"[{\[]")
_BLANK = re.compile(r"(?:\s+|//[^\n]*|#[^\n]*|/\*.*?(?:\*/|\Z))*", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_WORD = re.compile(r"[+-]?[A-Za-z_][A-Za-z0-9_]*")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.\- ]{0,100}")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_WORDS = {"true": True, "false": False, "none": None, "null": None, "nan": math.nan}
_WORDS |= {sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in ("inf", "infinity")}
_CLOSING = {"{": "}", "[": "]", "(": ")"}


@dataclass(frozen=True)
class Found:
    """A container found in a text: where it starts and ends, its value, and whether the text ended first."""

    start: int
    end: int
    value: Any
    truncated: bool


def find_containers(text: str) -> list[Found]:
    """Returns the outermost objects and lists of a text, in order.

    Objects become dicts with string keys, lists and tuples become lists. Of a list that the end of the text
    cuts off, the complete elements remain; of an object, the last value may be incomplete. What looks like a
    container and is none is skipped. Never raises.
    """
    reader = _Reader(text)
    found = []
    at = 0
    while (match := _OPENING.search(text, at)) is not None and reader.steps < MAX_STEPS:
        at = match.start()
        reader.at, reader.truncated = at, False
        try:
            value = reader.container(depth=0)
        except _NotJson:
            at += 1
            continue
        found.append(Found(at, reader.at, value, reader.truncated))
        at = max(reader.at, at + 1)
    return found


class _NotJson(Exception):
    """What is read here is no JSON, however loosely."""


class _CutOff(Exception):
    """The text ended inside a scalar, which is then left out."""


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.steps = 0
        self.truncated = False

    def container(self, *, depth: int) -> Any:
        if depth >= MAX_DEPTH:
            raise _NotJson
        opening = self.text[self.at]
        closing = _CLOSING[opening]
        self.at += 1
        entries: list[Any] = []
        while True:
            self._skip_blank()
            if self._at_end():
                self.truncated = True
                break
            if self.text[self.at] == closing:
                self.at += 1
                break
            try:
                entries.append(self._entry(depth) if opening == "{" else self._value(depth))
            except _CutOff:
                self.truncated = True
                break
            if self.truncated:
                if opening != "{":
                    entries.pop()
                break
            self._skip_blank()
            if not self._at_end():
                if self.text[self.at] == ",":
                    self.at += 1
                elif self.text[self.at] != closing:
                    raise _NotJson
        return dict(entries) if opening == "{" else entries

    def _entry(self, depth: int) -> tuple[str, Any]:
        if self.text[self.at] in "\"'`":
            key = self._string()
        elif match := _KEY.match(self.text, self.at):
            key = match.group().rstrip()
            self.at += len(key)
        elif match := _NUMBER.match(self.text, self.at):
            key = match.group()
            self.at = match.end()
        else:
            raise _NotJson
        self._skip_blank()
        if self._at_end():
            raise _CutOff
        if self.text[self.at] not in ":=":
            raise _NotJson
        self.at += 1
        self._skip_blank()
        return key, self._value(depth)

    def _value(self, depth: int) -> Any:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise _NotJson
        if self._at_end():
            raise _CutOff
        char = self.text[self.at]
        if char in _CLOSING:
            return self.container(depth=depth + 1)
        if char in "\"'`":
            return self._string()
        if match := _NUMBER.match(self.text, self.at):
            self.at = match.end()
            if self._at_end():
                raise _CutOff  # more digits may have been on their way
            return _number(match.group())
        if match := _WORD.match(self.text, self.at):
            self.at = match.end()
            if (word := match.group().lower()) in _WORDS:
                return _WORDS[word]
            if self._at_end():
                raise _CutOff
        raise _NotJson

    def _string(self) -> str:
        quote = self.text[self.at]
        start = at = self.at + 1
        while True:
            end = self.text.find(quote, at)
            if end < 0:
                self.steps += (len(self.text) - start) // 64
                raise _CutOff
            backslashes = 0
            while self.text[end - 1 - backslashes] == "\\" and end - 1 - backslashes >= start:
                backslashes += 1
            if backslashes % 2 == 0:
                break
            at = end + 1
        self.at = end + 1
        raw = self.text[start:end]
        return _ESCAPE.sub(_unescape, raw) if "\\" in raw else raw

    def _skip_blank(self) -> None:
        self.steps += 1
        match = _BLANK.match(self.text, self.at)
        if match is not None:
            self.at = match.end()

    def _at_end(self) -> bool:
        return self.at >= len(self.text)


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    if len(code) == 5:
        char = int(code[1:], 16)
        return "\ufffd" if 0xD800 <= char <= 0xDFFF else chr(char)
    return _ESCAPED.get(code, code)


def _number(token: str) -> int | float:
    digits = token.replace("_", "")
    if len(digits) > MAX_NUMBER_DIGITS:
        return math.copysign(math.inf, -1 if digits.startswith("-") else 1)
    return int(digits) if digits.lstrip("+-").isdigit() else float(digits)

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
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.\- ]{0,100}|[+-]?\d[\d.]*")
_SCALAR = re.compile(
    r"""(?P<string>"[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*'|`[^`\\]*(?:\\.[^`\\]*)*`)
      |(?P<number>[+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
      |(?P<word>[+-]?[A-Za-z_][A-Za-z0-9_]*)""",
    re.DOTALL | re.VERBOSE | re.ASCII,
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_WORDS = {"true": True, "false": False, "none": None, "null": None, "nan": math.nan}
_WORDS |= {sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in ("inf", "infinity")}
_CLOSING = {"{": "}", "[": "]", "(": ")"}
_QUOTES = "\"'`"


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
        is_object, closing = self.text[self.at] == "{", _CLOSING[self.text[self.at]]
        self.at += 1
        entries: list[Any] = []
        while (mark := self._next()) != closing:
            try:
                if not mark:
                    raise _CutOff
                entries.append((self._key(), self._value(depth)) if is_object else self._value(depth))
            except _CutOff:
                self.truncated = True
                break
            if self.truncated:
                if not is_object:
                    entries.pop()
                break
            mark = self._next()
            if mark == ",":
                self.at += 1
            elif mark not in ("", closing):
                raise _NotJson
        else:
            self.at += 1
        return dict(entries) if is_object else entries

    def _next(self) -> str:
        """Returns the character after blanks and comments; empty at the end."""
        self.steps += 1
        blank = _BLANK.match(self.text, self.at)
        self.at = blank.end() if blank else self.at
        return self.text[self.at : self.at + 1]

    def _key(self) -> str:
        if self.text[self.at] in _QUOTES:
            key = self._scalar()
        elif match := _KEY.match(self.text, self.at):
            self.at = match.end()
            key = match.group().rstrip()
        else:
            raise _NotJson
        mark = self._next()
        if not mark:
            raise _CutOff
        if mark not in ":=":
            raise _NotJson
        self.at += 1
        return key

    def _value(self, depth: int) -> Any:
        mark = self._next()
        if self.steps > MAX_STEPS:
            raise _NotJson
        if not mark:
            raise _CutOff
        return self.container(depth=depth + 1) if mark in _CLOSING else self._scalar()

    def _scalar(self) -> Any:
        match = _SCALAR.match(self.text, self.at)
        if match is None:
            if self.text[self.at] not in _QUOTES:
                raise _NotJson
            self.steps += (len(self.text) - self.at) // 64  # looked through for the end of the string
            raise _CutOff
        self.at, token = match.end(), match.group()
        if match.lastgroup == "string":
            return _ESCAPE.sub(_unescape, token[1:-1])
        if match.lastgroup == "word" and token.lower() in _WORDS:
            return _WORDS[token.lower()]
        if self.at == len(self.text):
            raise _CutOff  # more of it may have been on its way
        if match.lastgroup == "word":
            raise _NotJson
        return _number(token)


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

"""Schedule primitives as a model writes them: as lists, as objects or as calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reasoning_compiler.core.primitives import BUFFER_SCOPES, MAX_PRIMITIVES, SIGNATURES, Primitive, checked
from reasoning_compiler.proposer.llm.values import shown

_CALL = re.compile(r"\s*(?:\w+\.)?(\w{1,40})\s*\((.*)\)\s*;?\s*", re.DOTALL)
_KEYWORD = re.compile(r"\s*([a-z_]{1,20})\s*=(?!=)\s*(.*)", re.DOTALL)
_NAME_KEYS = ("primitive", "name", "op", "do")
_MAX_CALL_CHARS = 1_000
_NULL = ("null", "none", "?", "*", "")


def read_primitives(raw: Any) -> tuple[Primitive, ...]:
    """Returns the primitives of an answer's list, each with arguments of its parameters' kinds.

    Args:
        raw: the list; nothing of it is executed.

    Raises:
        ValueError: it is none, or holds what is no primitive; the text can be told back to the model.
    """
    if not isinstance(raw, list):
        raise ValueError(f'"then" is {shown(raw)}, and not a list of primitives, as [["unroll", "C.k_1"]]')
    if raw and isinstance(raw[0], str) and raw[0] in SIGNATURES:
        raw = [raw]  # one, without the list around it
    if len(raw) > MAX_PRIMITIVES:
        raise ValueError(f'"then" has {len(raw)} primitives; at most {MAX_PRIMITIVES} are taken')
    return tuple(checked(_read(each)) for each in raw)


def _read(raw: Any) -> Primitive:
    if isinstance(raw, str) and (call := _CALL.fullmatch(raw[:_MAX_CALL_CHARS])):
        parts = [part for part in _split(call[2]) if part.strip()]
        keywords = {m[1]: _argument(m[2]) for part in parts if (m := _KEYWORD.fullmatch(part))}
        return _made(call[1], [_argument(part) for part in parts if not _KEYWORD.fullmatch(part)], keywords)
    if isinstance(raw, list) and raw and isinstance(raw[0], str):
        return _made(raw[0], raw[1:], {})
    if isinstance(raw, dict):
        name = next((raw[key] for key in _NAME_KEYS if isinstance(raw.get(key), str)), None)
        if name is not None:
            return _made(name, [], {k: v for k, v in raw.items() if k not in _NAME_KEYS})
        if len(raw) == 1:
            name, inner = next(iter(raw.items()))
            keywords = inner if isinstance(inner, dict) else {}
            return _made(name, inner if isinstance(inner, list) else [] if keywords else [inner], keywords)
    raise ValueError(f"{shown(raw)} is no primitive; write one as a list of its name and its arguments")


def _made(name: str, positional: list[Any], keywords: Mapping[str, Any]) -> Primitive:
    name = name.strip().casefold()
    signature = SIGNATURES.get(name)
    arguments = list(positional)
    if signature is not None:
        kinds = [parameter.kind for parameter in signature.parameters]
        if kinds == ["loops"] and len(arguments) > 1:
            arguments = [arguments]  # its loops one after another
        if name == "cache_write":  # of which buffer is no question
            arguments = arguments[:1] + [a for a in arguments[1:] if a in BUFFER_SCOPES][:1]
        for parameter in signature.parameters[len(arguments) :]:
            if parameter.name not in keywords:
                break
            arguments.append(keywords[parameter.name])
    return Primitive(name, tuple(_plain(argument) for argument in arguments))


def _plain(argument: Any) -> Any:
    """Returns an argument as records have it: tuples for lists, integers for what a model wrote as another number."""
    if isinstance(argument, list):
        return tuple(_plain(part) for part in argument[:64])
    if isinstance(argument, float) and argument.is_integer():
        return int(argument)
    if isinstance(argument, str) and re.fullmatch(r"\d{1,9}", argument.strip(), re.ASCII):
        return int(argument)
    return argument.strip() if isinstance(argument, str) else argument


def _argument(text: str) -> Any:
    """Returns an argument of a call: a list, null, or text without quotes."""
    text = text.strip()
    if len(text) > 1 and text[0] in "[(" and text[-1] in "])":
        return [_argument(part) for part in _split(text[1:-1]) if part.strip()]
    text = text.strip("\"'`")
    return None if text.casefold() in _NULL else text


def _split(text: str) -> list[str]:
    """Returns what stands between the commas that no bracket encloses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts

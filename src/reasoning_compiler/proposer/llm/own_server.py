"""A server of OpenAI's protocol as such servers are: errors inside of answers, and counts that are null.

The hook is pydantic-ai's for what compatible servers do differently. Imported only where such a server is asked.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel

_STATUS_BY_WORDS = (
    (402, re.compile(r"quota|credit|billing|payment", re.I)),
    (401, re.compile(r"api.?key|auth|credential", re.I)),
    (429, re.compile(r"rate|limit|busy|overload|capacity", re.I)),
)
_UNNAMED_STATUS = 502
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


class OwnServerModel(OpenAIChatModel):
    """pydantic-ai's chat model, which takes an error in an answer of status 200 for that error."""

    def _validate_completion(self, response: Any) -> Any:
        error = getattr(response, "error", None)
        if error and not response.choices:
            raise ModelHTTPError(_status(error), self.model_name, body=error if isinstance(error, dict) else str(error))
        usage = response.usage
        if usage is not None and any(not isinstance(getattr(usage, count, None), int) for count in _COUNTS):
            response.usage = None  # the client then estimates
        return super()._validate_completion(response)


def _status(error: Any) -> int:
    """Returns the HTTP status that an error stands for: its code, or what its words say."""
    code = error.get("code") if isinstance(error, dict) else None
    if str(code).isdecimal() and 400 <= int(code) < 600:
        return int(code)
    return next((status for status, words in _STATUS_BY_WORDS if words.search(str(error))), _UNNAMED_STATUS)

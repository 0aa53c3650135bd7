"""One client for every language model: a call in, an answer or a failure with its kind out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reasoning_compiler.core.errors import LLMSetupError
from reasoning_compiler.proposer.llm.calls import (
    SETUP_KINDS,
    Attempt,
    CallFailure,
    Message,
    Reply,
    estimate_tokens,
)
from reasoning_compiler.proposer.llm.failures import classify
from reasoning_compiler.proposer.llm.prices import Usage
from reasoning_compiler.proposer.llm.providers import BUILT_PROVIDERS, connect, split_model
from reasoning_compiler.proposer.llm.scrub import Scrubber
from reasoning_compiler.proposer.llm.settings import LLMSettings

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model, StreamedResponse

_FIRST_WAIT_SECS = 0.5
_MIN_SHRUNK_TOKENS = 512


class LLMClient:
    """Calls one model, from any thread; calls run side by side on an event loop of the client's own.

    Args:
        settings: how to reach and ask the model.
        max_attempts: tries of one call; only what may pass is tried again.
        max_wait_secs: the longest wait between two tries. Where the provider asks for more, the call fails.

    Raises:
        LLMSetupError: what is known to be wrong without a call: an unknown provider, a missing key or package.
    """

    def __init__(self, settings: LLMSettings, *, max_attempts: int = 4, max_wait_secs: float = 60.0) -> None:
        self.settings = settings
        self.scrubber = Scrubber()
        self._max_attempts, self._max_wait_secs = max_attempts, max_wait_secs
        self._model: Model = connect(settings.model, base_url=settings.base_url, api_key_env=settings.api_key_env)
        self._provider, _ = split_model(settings.model, settings.base_url)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._slots: asyncio.Semaphore | None = None
        self._refused_settings: set[str] = set()
        self._token_cap: int | None = None
        self._reached = False
        self._is_closed = False

    def __repr__(self) -> str:
        return f"LLMClient({self.settings.model!r})"

    @property
    def model(self) -> str:
        return self.settings.model

    def complete(self, messages: Sequence[Message], *, max_output_tokens: int | None = None) -> Reply | CallFailure:
        """Returns the model's answer, or why there is none after the tries that the options allow.

        Blocks until then. Raises LLMSetupError where no call can succeed: a refused key, an unknown model, no
        credit, a server that no connection has ever been made to.
        """
        future = self._submit(tuple(messages), max_output_tokens or self.settings.max_output_tokens)
        if future is None:
            return CallFailure("closed", "the run had ended before the call")
        try:
            outcome = future.result()
        except CancelledError:
            return CallFailure("closed", "the run ended while the call was under way", sent=True)
        except BaseException:
            future.cancel()
            raise
        if isinstance(outcome, CallFailure) and outcome.kind in SETUP_KINDS:
            raise LLMSetupError(self._setup_line(outcome))
        return outcome

    def check_connection(self) -> Reply:
        """Returns the answer to one small call. Raises LLMSetupError, one line, where there is none."""
        outcome = self.complete([Message("user", "Answer with the one word: ready")], max_output_tokens=64)
        if isinstance(outcome, CallFailure):
            raise LLMSetupError(self._setup_line(outcome))
        return outcome

    def close(self) -> None:
        """Cancels the calls under way and closes the connections; a later call fails as "closed"."""
        with self._lock:
            self._is_closed = True
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), loop)
        thread.join(timeout=5)

    def __enter__(self) -> LLMClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the event loop's thread ----------------------------------------------------------------------------

    def _submit(self, messages: tuple[Message, ...], max_output_tokens: int) -> Future[Reply | CallFailure] | None:
        with self._lock:
            if self._is_closed:
                return None
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._slots = asyncio.Semaphore(self.settings.max_concurrent_calls)
                self._thread = threading.Thread(target=_run_loop, args=(self._loop,), name="llm", daemon=True)
                self._thread.start()
                asyncio.run_coroutine_threadsafe(self._model.__aenter__(), self._loop).result()
            return asyncio.run_coroutine_threadsafe(self._complete(messages, max_output_tokens), self._loop)

    async def _shut_down(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._model.__aexit__(None, None, None)
        loop = asyncio.get_running_loop()
        await loop.shutdown_asyncgens()
        loop.stop()

    async def _complete(self, messages: tuple[Message, ...], max_output_tokens: int) -> Reply | CallFailure:
        assert self._slots is not None
        async with self._slots:
            started = time.perf_counter()
            attempts: list[Attempt] = []
            wait_secs = _FIRST_WAIT_SECS
            while True:
                outcome = await self._attempt(messages, min(max_output_tokens, self._token_cap or max_output_tokens))
                latency_secs = time.perf_counter() - started
                if isinstance(outcome, Reply):
                    text = self.scrubber.scrub(outcome.text)  # a server may send a key back
                    return replace(outcome, text=text, latency_secs=latency_secs, attempts=tuple(attempts))
                if outcome.adapted and len(attempts) < 2 * self._max_attempts:
                    attempts.append(Attempt(outcome.kind, outcome.message))
                    continue
                pause = max(outcome.retry_after_secs or 0.0, wait_secs)
                last = len(attempts) + 1 >= self._max_attempts
                if last or not outcome.passing or pause > self._max_wait_secs:
                    attempts.append(Attempt(outcome.kind, outcome.message))
                    return replace(outcome, words="", latency_secs=latency_secs, attempts=tuple(attempts))
                attempts.append(Attempt(outcome.kind, outcome.message, pause))
                await asyncio.sleep(pause)
                wait_secs *= 2

    async def _attempt(self, messages: tuple[Message, ...], max_output_tokens: int) -> Reply | CallFailure:
        settings = self._settings(max_output_tokens)
        streams: list[StreamedResponse] = []
        try:
            async with asyncio.timeout(self.settings.timeout_secs):
                response = await self._request(self._messages(messages), settings, streams)
        except TimeoutError:
            failed = CallFailure("timeout", f"no whole answer within {self.settings.timeout_secs:g} s", sent=True)
        except Exception as error:  # third-party code, on whatever a server sends
            failed = self._failed(error, settings, max_output_tokens)
        else:
            self._reached = True
            return _reply(response, messages)
        partial = _text(streams[0].get()) if streams else ""
        if partial.strip():
            return Reply(partial, "cut_off", _estimated(messages, partial), 0.0)
        return failed

    async def _request(
        self, messages: list[ModelMessage], settings: dict[str, Any], streams: list[StreamedResponse]
    ) -> ModelResponse:
        from pydantic_ai import direct

        if not self.settings.stream:
            return await direct.model_request(self._model, messages, model_settings=settings)
        async with direct.model_request_stream(self._model, messages, model_settings=settings) as stream:
            streams.append(stream)  # what has come so far outlives a timeout
            async for _ in stream:
                pass
            return stream.get()

    def _settings(self, max_output_tokens: int) -> dict[str, Any]:
        newer_field = "max_tokens" in self._refused_settings
        settings: dict[str, Any] = {
            "max_tokens": max_output_tokens,
            "extra_body": {"max_completion_tokens": max_output_tokens} if newer_field else None,
            "temperature": self.settings.temperature,
            "seed": self.settings.seed,
            "timeout": self.settings.timeout_secs,
            # This client's own tries are recorded; the providers that it builds have none of their own.
            "max_retries": None if self._provider in BUILT_PROVIDERS else 0,
        }
        if self._provider == "anthropic":
            settings["cache"] = {"messages": False}
        return {k: v for k, v in settings.items() if v is not None and k not in self._refused_settings}

    def _messages(self, messages: tuple[Message, ...]) -> list[ModelMessage]:
        from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart

        if "system" in self._refused_settings:
            messages = _without_system(messages)
        instructions = "\n\n".join(m.text for m in messages if m.role == "system") or None
        return [
            ModelResponse(parts=[TextPart(m.text)])
            if m.role == "assistant"
            else ModelRequest(parts=[UserPromptPart(m.text)], instructions=instructions)
            for m in messages
            if m.role != "system"
        ]

    # -- failures ---------------------------------------------------------------------------------------

    def _failed(self, error: Exception, settings: dict[str, Any], max_output_tokens: int) -> CallFailure:
        failed = classify(error, self.scrubber, reached=self._reached)
        self._reached = self._reached or failed.kind != "unreachable"
        if failed.kind == "context_window":
            return replace(failed, adapted=self._shrink_answer(max_output_tokens))
        if failed.kind in ("rejected", "unknown_model") and self._adapt(failed.words, settings, max_output_tokens):
            return replace(failed, kind="rejected", adapted=True)
        return failed

    def _shrink_answer(self, max_output_tokens: int) -> bool:
        """Returns whether a shorter answer may make room: many servers count it with the prompt."""
        if max_output_tokens <= _MIN_SHRUNK_TOKENS:
            return False
        self._token_cap = max(max_output_tokens // 4, _MIN_SHRUNK_TOKENS)
        return True

    def _adapt(self, words: str, settings: dict[str, Any], max_output_tokens: int) -> bool:
        """Returns whether the next try asks differently: without a setting that the server refuses, or for less."""
        words = words.lower()
        if "max_completion_tokens" in words and "max_tokens" in settings:
            self._refused_settings.add("max_tokens")
            return True
        if "max_tokens" in words or "max_completion_tokens" in words:
            return self._shrink_answer(max_output_tokens)
        for name in ("temperature", "seed"):
            if name in words and name in settings:
                self._refused_settings.add(name)
                return True
        if "system" in words and "role" in words and "system" not in self._refused_settings:
            self._refused_settings.add("system")
            return True
        return False

    def _setup_line(self, failure: CallFailure) -> str:
        where = f"{self.settings.model!r}" + (f" at {self.settings.base_url}" if self.settings.base_url else "")
        what = {
            "auth": "the key is refused; check it and what it may be used for",
            "unknown_model": "there is no such model there; check its name and the server's address",
            "quota": "the account has no credit left",
            "unreachable": "there is no connection; check the address and that the server runs",
            "connection": "the connection breaks; check the address and that the server is well",
            "timeout": f"there was no answer within {self.settings.timeout_secs:g} s",
        }.get(failure.kind, f"the call failed ({failure.kind})")
        return self.scrubber.scrub(f"`--llm` is {where}: {what}. The server says: {failure.message}")


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


def _without_system(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Returns the messages with the system's text at the beginning of the first user's."""
    system = "\n\n".join(m.text for m in messages if m.role == "system")
    rest = [m for m in messages if m.role != "system"]
    return (Message("user", f"{system}\n\n{rest[0].text}"), *rest[1:])


def _text(response: ModelResponse) -> str:
    """Returns the answer's text; where there is none, that of its tool calls or of its hidden reasoning.

    Where a server leaves the beginning of the hidden reasoning out, its end is still in the text.
    """
    from pydantic_ai.messages import TextPart, ThinkingPart, ToolCallPart

    texts = [part.content for part in response.parts if isinstance(part, TextPart) and part.content]
    if not texts:
        texts = [part.args_as_json_str() for part in response.parts if isinstance(part, ToolCallPart)]
    if not texts:
        texts = [part.content for part in response.parts if isinstance(part, ThinkingPart) and part.content]
    text = "\n".join(texts)
    _, end, rest = text.rpartition("</think>")
    return rest.lstrip() if end else text


def _reply(response: ModelResponse, messages: tuple[Message, ...]) -> Reply:
    text = _text(response)
    usage = Usage(
        input_tokens=response.usage.input_tokens,
        output_tokens=response.usage.output_tokens,
        cached_tokens=response.usage.cache_read_tokens,
        cache_write_tokens=response.usage.cache_write_tokens,
    )
    if not usage.total:
        usage = _estimated(messages, text)
    return Reply(text, response.finish_reason or "stop", usage, 0.0)


def _estimated(messages: tuple[Message, ...], text: str) -> Usage:
    prompt = sum(estimate_tokens(m.text) for m in messages)
    return Usage(prompt, estimate_tokens(text), estimated=True)

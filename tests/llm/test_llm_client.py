"""The real client against a real HTTP server on loopback, with every way in which a provider can fail."""

from __future__ import annotations

import datetime
import email.utils
import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fake_server import KEY, FakeServer, Script, error

from reasoning_compiler.core.errors import LLMSetupError
from reasoning_compiler.proposer.llm import client as client_module
from reasoning_compiler.proposer.llm.calls import CallFailure, Message, Reply
from reasoning_compiler.proposer.llm.client import LLMClient
from reasoning_compiler.proposer.llm.settings import LLMSettings

pytest.importorskip("pydantic_ai", reason="the `llm` extra is not installed")

ASK = (Message("system", "You tune."), Message("user", "Propose."))


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_FIRST_WAIT_SECS", 0.01)


@contextmanager
def served(*scripts: Script, respond: Callable | None = None, **options: Any) -> Iterator[tuple[FakeServer, LLMClient]]:
    with FakeServer(*scripts, respond=respond) as server:
        options = {"model": "openai:fake", "base_url": server.base_url, "timeout_secs": 5.0} | options
        tries = {name: options.pop(name) for name in ("max_attempts", "max_wait_secs") if name in options}
        with LLMClient(LLMSettings(**options), **tries) as client:
            yield server, client


def call(*scripts: Script, **options: Any) -> tuple[FakeServer, Reply | CallFailure]:
    with served(*scripts, **options) as (server, client):
        return server, client.complete(ASK)


def test_asks_and_reads_the_answer() -> None:
    server, reply = call(Script("hello", usage=(120, 7)), temperature=0.5, seed=11, max_output_tokens=99)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish, reply.usage.input_tokens, reply.usage.output_tokens) == ("hello", "stop", 120, 7)
    (request,) = server.requests
    assert request["model"] == "fake" and not request["stream"]
    assert (request["temperature"], request["seed"], request["max_tokens"]) == (0.5, 11, 99)
    assert [m["role"] for m in request["messages"]] == ["system", "user"]


def test_a_conversation_keeps_its_order() -> None:
    with served(Script("ok")) as (server, client):
        client.complete((*ASK, Message("assistant", "bad"), Message("user", "again")))
    contents = [(m["role"], m["content"]) for m in server.requests[0]["messages"]]
    assert contents == [("system", "You tune."), ("user", "Propose."), ("assistant", "bad"), ("user", "again")]


def test_streams() -> None:
    server, reply = call(Script("streamed " * 20, usage=(5, 6)), stream=True)
    assert server.requests[0]["stream"] and isinstance(reply, Reply)
    assert reply.text == "streamed " * 20 and reply.usage.output_tokens == 6


def test_counts_tokens_itself_where_the_server_does_not_say() -> None:
    _, reply = call(Script("x" * 300, usage=None))
    assert isinstance(reply, Reply) and reply.usage.estimated and reply.usage.output_tokens == 100


def test_speaks_anthropics_protocol() -> None:
    with FakeServer(Script("hello", usage=(50, 5))) as server:
        settings = LLMSettings("anthropic:claude-sonnet-5-5", base_url=server.root, timeout_secs=5)
        with LLMClient(settings) as client:
            reply = client.complete(ASK)
    assert isinstance(reply, Reply) and reply.text == "hello"
    assert reply.usage.cached_tokens == 300 and reply.usage.input_tokens == 350
    (request,) = server.requests
    assert request["system"][0]["text"] == "You tune."
    assert request["system"][0]["cache_control"]["type"] == "ephemeral"  # the part that is the same in every call
    assert "cache_control" not in str(request["messages"])


def test_speaks_googles_protocol() -> None:
    with FakeServer(Script("hello", usage=(50, 5))) as server:
        settings = LLMSettings("google:gemini-2.5-flash", base_url=server.root, timeout_secs=5)
        with LLMClient(settings, max_attempts=1) as client:
            reply = client.complete(ASK)
    assert isinstance(reply, Reply) and (reply.text, reply.usage.total) == ("hello", 55)
    assert server.requests[0]["systemInstruction"]["parts"] == [{"text": "You tune."}]


@pytest.mark.parametrize(
    ("failures", "kinds"),
    [
        ([error(429, "slow down")], ["rate_limit"]),
        ([error(500, "oops"), error(503, "overloaded")], ["server", "server"]),
        ([error(529, "overloaded")], ["server"]),
        ([Script(drop="before")], ["connection"]),
        ([Script("x" * 3000, drop="within")], ["connection"]),
        ([Script(body=b"<html>bad gateway</html>")], ["protocol"]),
        ([Script(body=b"{}")], ["protocol"]),
        ([Script(body=b"[1, 2]")], ["protocol"]),
        ([Script(body=b'{"id": "x", "choices"')], ["protocol"]),
    ],
)
def test_what_may_pass_is_tried_again(failures: list[Script], kinds: list[str]) -> None:
    server, reply = call(*failures, Script("ok"))
    assert isinstance(reply, Reply) and reply.text == "ok", reply
    assert [a.kind for a in reply.attempts] == kinds
    assert len(server.requests) == len(kinds) + 1
    assert all(a.message and a.wait_secs > 0 for a in reply.attempts)


def test_tries_are_bounded() -> None:
    server, failure = call(error(503, "overloaded"), max_attempts=3)
    assert isinstance(failure, CallFailure) and failure.kind == "server"
    assert len(server.requests) == 3 == len(failure.attempts)


def test_waits_as_long_as_the_provider_asks() -> None:
    _, reply = call(error(429, "slow down", Retry_After="1"), Script("ok"))
    assert isinstance(reply, Reply) and reply.attempts[0].wait_secs == 1.0 and reply.latency_secs >= 1


def test_gives_up_where_the_provider_asks_for_more_than_is_allowed() -> None:
    server, failure = call(error(429, "slow down", Retry_After="1000"), Script("ok"), max_wait_secs=5)
    assert isinstance(failure, CallFailure) and (failure.kind, failure.retry_after_secs) == ("rate_limit", 1000)
    assert len(server.requests) == 1


def test_a_slow_answer_times_out_and_is_not_asked_for_again() -> None:
    server, failure = call(Script("late", delay_secs=2), timeout_secs=0.3)
    assert isinstance(failure, CallFailure) and failure.kind == "timeout" and failure.sent
    assert failure.latency_secs < 1 and len(server.requests) == 1


@pytest.mark.parametrize("how", [{"drop": "within"}, {"chunk_delay_secs": 0.1}])
def test_a_stream_that_breaks_off_leaves_what_has_come(how: dict[str, Any]) -> None:
    _, reply = call(Script("0123456789" * 40, **how), stream=True, timeout_secs=0.8)
    assert isinstance(reply, Reply) and reply.finish == "cut_off"
    assert reply.usage.estimated and reply.text != "0123456789" * 40 and reply.text.startswith("0123456789")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (error(401, f"Incorrect API key provided: {KEY}"), "the key is refused"),
        (error(403, "not allowed"), "the key is refused"),
        (error(404, "The model `fake` does not exist", "model_not_found"), "no such model"),
        (error(400, "fake is not a valid model ID: unknown model"), "no such model"),
        (error(429, "You exceeded your current quota", "insufficient_quota"), "no credit"),
        (error(402, "Payment required"), "no credit"),
    ],
)
def test_what_no_call_can_mend_stops_at_once_with_one_line(script: Script, words: str) -> None:
    with served(script) as (server, client):
        with pytest.raises(LLMSetupError, match=words) as caught:
            client.complete(ASK)
        with pytest.raises(LLMSetupError, match=words):
            client.check_connection()
    assert len(server.requests) == 2
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_other_rejections_fail_the_call_only() -> None:
    server, failure = call(error(422, "nonsense"))
    assert isinstance(failure, CallFailure) and failure.kind == "rejected" and len(server.requests) == 1


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("Unsupported value: 'temperature' does not support 0.5 with this model", "temperature"),
        ("Unrecognized request argument supplied: seed", "seed"),
    ],
)
def test_leaves_out_what_a_server_refuses(message: str, field: str) -> None:
    with served(error(400, message), Script("ok"), temperature=0.5, seed=1) as (server, client):
        for _ in range(2):
            assert isinstance(client.complete(ASK), Reply)
    assert [field in request for request in server.requests] == [True, False, False]


def test_a_server_without_a_system_role_gets_its_text_from_the_user() -> None:
    server, reply = call(error(400, "System role not supported"), Script("ok"))
    assert isinstance(reply, Reply)
    assert server.requests[1]["messages"] == [{"role": "user", "content": "You tune.\n\nPropose."}]


def test_the_newer_field_is_sent_where_the_older_one_is_refused() -> None:
    refused = error(400, "'max_tokens' cannot be used with this model; send 'max_completion_tokens' in its place.")

    def respond(request: dict[str, Any]) -> Script:
        return refused if "max_tokens" in request else Script("ok")

    with served(respond=respond) as (server, client):
        replies = [client.complete(ASK, max_output_tokens=700) for _ in range(2)]
    assert all(isinstance(reply, Reply) for reply in replies)
    lengths = [(r.get("max_tokens"), r.get("max_completion_tokens")) for r in server.requests]
    assert lengths == [(700, None), (None, 700), (None, 700)]


def _completion(**other: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]} | other


def _body(body: dict[str, Any]) -> Script:
    return Script(body=json.dumps(body).encode())


def test_an_error_inside_an_answer_is_that_error() -> None:
    busy = _body({"error": {"code": 429, "message": "The upstream is rate-limited for now."}, "user_id": "u"})
    server, reply = call(busy, Script("ok"))
    assert isinstance(reply, Reply) and reply.text == "ok" and len(server.requests) == 2
    assert [(a.kind, a.message) for a in reply.attempts] == [
        ("rate_limit", "429: The upstream is rate-limited for now.")
    ]
    named = {"code": "rate_limit_exceeded", "message": "slow down"}
    assert call(_body(_completion(choices=None, error=named)), max_attempts=1)[1].kind == "rate_limit"
    assert call(_body({"error": "the upstream broke"}), max_attempts=1)[1].kind == "server"


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (401, "No user belongs to this key.", "the key is refused.*No user belongs to this key"),
        (402, "This needs more credits than the account has.", "no credit left.*more credits than"),
        ("invalid_api_key", "wrong", "the key is refused"),
        ("insufficient_quota", "pay", "no credit left"),
    ],
)
def test_a_refused_key_inside_an_answer_stops_at_once(code: int | str, message: str, words: str) -> None:
    script = _body({"error": {"code": code, "message": message}})
    with served(script) as (server, client), pytest.raises(LLMSetupError, match=words):
        client.complete(ASK)
    assert len(server.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.filterwarnings("ignore:Failed to extract usage")
def test_counts_that_are_null_and_ends_of_its_own_cost_no_answer(stream: bool) -> None:
    counts = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": 0}
    script = _body(_completion(usage=counts))
    if stream:
        common = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        said = {"index": 0, "delta": {"role": "assistant", "content": "hello"}, "finish_reason": None}
        end = {"index": 0, "delta": {}, "finish_reason": "eos_token"}
        lines = (
            ": keep-alive",
            *(f"data: {json.dumps(common | {'choices': [c], 'usage': counts})}" for c in (said, end)),
        )
        body = "\n\n".join((*lines, "data: [DONE]", ""))
        script = Script(body=body.encode(), headers={"Content-Type": "text/event-stream"})
    server, reply = call(script, stream=stream)
    assert isinstance(reply, Reply) and reply.text == "hello" and len(server.requests) == 1
    assert reply.usage.estimated and reply.usage.total > 0


def test_waits_until_a_date() -> None:
    when = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
    date = email.utils.format_datetime(when, usegmt=True)
    _, reply = call(error(429, "slow down", Retry_After=date), Script("ok"))
    assert isinstance(reply, Reply) and 0.5 < reply.attempts[0].wait_secs <= 2


def test_of_a_proxys_page_the_words_are_told() -> None:
    page = b"<html>\n<head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>"
    _, failure = call(Script(status=502, body=page, headers={"Content-Type": "text/html"}), max_attempts=1)
    assert isinstance(failure, CallFailure) and (failure.kind, failure.message) == ("server", "502: 502 Bad Gateway")


def test_asks_for_less_where_the_context_is_too_small() -> None:
    full = error(400, "This model's maximum context length is 4096 tokens", "context_length_exceeded")
    server, reply = call(full, Script("ok"))
    assert isinstance(reply, Reply) and [r["max_tokens"] for r in server.requests] == [8192, 2048]
    server, failure = call(full)
    assert isinstance(failure, CallFailure) and failure.kind == "context_window"


def test_odd_messages_are_read_as_text() -> None:
    think = {"role": "assistant", "content": "<think>hm</think>done"}
    nothing = {"role": "assistant", "content": None}
    function = {"name": "propose", "arguments": '{"a": 1}'}
    tool = nothing | {"tool_calls": [{"id": "t", "type": "function", "function": function}]}
    texts = [call(Script(message=m))[1].text for m in (think, nothing, tool)]
    assert texts == ["done", "", '{"a":1}'] or texts == ["done", "", '{"a": 1}']
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "done"}]
    beside = {"role": "assistant", "content": "done", "reasoning_content": "hm"}
    half = {"role": "assistant", "content": "hm {1}</think>\ndone"}
    for message in ({"role": "assistant", "content": parts}, beside, half):
        assert call(Script(message=message))[1].text == "done"


def test_calls_run_side_by_side_up_to_the_limit() -> None:
    with served(Script("ok", delay_secs=0.2), max_concurrent_calls=3) as (server, client):
        threads = [threading.Thread(target=client.complete, args=(ASK,)) for _ in range(6)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.perf_counter() - started
    assert server.most_at_once == 3
    assert took > 0.35


def test_closing_ends_calls_and_there_is_none_afterwards() -> None:
    with served(Script("late", delay_secs=1.5), Script("ok"), timeout_secs=30) as (server, client):
        outcomes: list[Any] = []
        thread = threading.Thread(target=lambda: outcomes.append(client.complete(ASK)))
        thread.start()
        time.sleep(0.3)
        client.close()
        thread.join()
        assert outcomes[0].kind == "closed"
        late = client.complete(ASK)
        assert late.kind == "closed" and not late.sent
        assert len(server.requests) == 1


def test_a_call_costs_little_beside_the_models_own_time() -> None:
    with served(Script("ok", delay_secs=0.05)) as (_, client):
        client.complete(ASK)
        started = time.process_time()
        for _ in range(5):
            client.complete(ASK)
        assert (time.process_time() - started) / 5 < 0.05


# -- keys ---------------------------------------------------------------------------------------------------------


def test_an_own_server_sees_its_own_key_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-private")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-private")
    server, _ = call(Script("ok"))
    sent = str(server.request_headers[0])
    assert f"Bearer {KEY}'" in sent
    assert "-openai" not in sent and "private" not in sent
    monkeypatch.delenv("REASONC_LLM_API_KEY")
    server, _ = call(Script("ok"))
    assert KEY not in str(server.request_headers[0])
    server, _ = call(Script("ok"), api_key_env="OPENAI_API_KEY")
    assert KEY + "-openai" in str(server.request_headers[0])


def test_keys_do_not_leak_through_errors_or_texts() -> None:
    _, failure = call(error(422, f"bad header Authorization: Bearer {KEY}"))
    assert KEY not in repr(failure) and "[key]" in repr(failure)
    with served(Script("ok")) as (_, client):
        assert KEY not in repr(client) and KEY not in repr(vars(client.settings))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "gpt-4o-mini"}, "name the provider"),
        ({"model": "openai:"}, "name the provider"),
        ({"model": "nonesuch:x"}, "nonesuch"),
        ({"model": "openai:x", "base_url": "localhost:8000"}, "give a URL"),
        ({"model": "openai:x", "base_url": "ftp://localhost"}, "give a URL"),
        ({"model": "openai:x", "base_url": f"https://me:{KEY}@host/v1"}, "for host has a key or a password in it"),
        ({"model": "openai:x", "base_url": f"https://host/v1?api_key={KEY}"}, "REASONC_LLM_API_KEY"),
        ({"model": "openai:x", "api_key_env": "NOT_SET"}, "NOT_SET; give the name"),
        ({"model": "openai:x", "api_key_env": KEY}, "not the name of a variable"),
        ({"model": "google:gemini"}, "set the environment variable GOOGLE_API_KEY"),
    ],
)
def test_what_is_wrong_without_a_call_is_said_without_one(
    options: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    with pytest.raises(LLMSetupError, match=words) as caught:
        LLMClient(LLMSettings(**options))
    assert "\n" not in str(caught.value) and KEY not in str(caught.value)


def test_a_server_that_is_not_there_is_named() -> None:
    with (
        LLMClient(LLMSettings("ollama:x", base_url="http://127.0.0.1:9/v1"), max_attempts=2) as client,
        pytest.raises(LLMSetupError, match=r"127\.0\.0\.1:9/v1: there is no connection"),
    ):
        client.check_connection()


def test_local_model_names_may_hold_colons() -> None:
    server, _ = call(Script("ok"), model="llama3.1:8b-instruct")
    assert server.requests[0]["model"] == "llama3.1:8b-instruct"

"""A scriptable model server on loopback: OpenAI's chat completions (streamed or not), Anthropic's and Google's."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789abcdefSECRET"
"""In the environment of every test here; must never be written anywhere."""


@dataclass
class Script:
    """One answer of the server.

    Args:
        text: what the model says.
        status: the HTTP status; other than 200, `body` is sent as the error.
        body: a raw body instead of the protocol's.
        headers: sent in addition.
        delay_secs: before the first byte.
        finish: the protocol's reason for the end.
        usage: (input, output) tokens; None for a server that does not say.
        drop: "before" or "within" the body the connection is closed.
        chunk_delay_secs: between the pieces of a streamed answer.
        content: replaces the message's content, where it is no text.
    """

    text: str = ""
    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_secs: float = 0.0
    finish: str = "stop"
    usage: tuple[int, int] | None = (1000, 200)
    drop: str | None = None
    chunk_delay_secs: float = 0.0
    message: dict[str, Any] | None = None


def error(status: int, message: str, code: str | None = None, **headers: str) -> Script:
    body = json.dumps({"error": {"message": message, "type": "error", "code": code}}).encode()
    return Script(status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})


class FakeServer:
    """Serves scripts in order (the last one again and again), or what a function makes of a request."""

    def __init__(self, *scripts: Script, respond: Callable[[dict[str, Any]], Script] | None = None) -> None:
        self.scripts = list(scripts)
        self.respond = respond
        self.requests: list[dict[str, Any]] = []
        self.request_headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self.spans: list[tuple[float, float]] = []  # of each answer, from the request to the last byte
        self._at_once = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.root = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.base_url = f"{self.root}/v1"

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next_script(self, request: dict[str, Any], headers: dict[str, str]) -> Script:
        with self._lock:
            self.requests.append(request)
            self.request_headers.append(headers)
            if self.respond is not None:
                return self.respond(request)
            return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]

    def busy(self, change: int) -> None:
        with self._lock:
            self._at_once += change
            self.most_at_once = max(self.most_at_once, self._at_once)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that hang up; the rest is a fault of a test."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if not sent:
            raise ConnectionAbortedError("the client has hung up")
        request = json.loads(sent)
        script = self.fake.next_script(request, dict(self.headers))
        self.fake.busy(+1)
        started = time.perf_counter()
        try:
            time.sleep(script.delay_secs)
            self._answer(request, script)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self.fake.spans.append((started, time.perf_counter()))
            self.fake.busy(-1)

    def _answer(self, request: dict[str, Any], script: Script) -> None:
        if script.drop == "before":
            self._hang_up()
        elif script.body is not None:
            self._send(script, script.body)
        elif self.path.endswith("/messages"):
            self._send(script, json.dumps(_anthropic(request, script)).encode())
        elif self.path.endswith(":generateContent"):
            self._send(script, json.dumps(_google(script)).encode())
        elif request.get("stream"):
            self._stream(request, script)
        else:
            self._send(script, json.dumps(_openai(request, script)).encode())

    def _send(self, script: Script, body: bytes) -> None:
        self.send_response(script.status)
        for name, value in {"Content-Type": "application/json", **script.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if script.drop == "within":
            self.wfile.write(body[: len(body) // 2])
            self._hang_up()
        else:
            self.wfile.write(body)

    def _stream(self, request: dict[str, Any], script: Script) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        pieces = [script.text[i : i + 20] for i in range(0, len(script.text), 20)]
        common = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": request["model"]}
        for i, piece in enumerate(pieces):
            if script.drop == "within" and i == len(pieces) // 2:
                self._hang_up()
                return
            choice = {"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None}
            self._event({**common, "choices": [choice]})
            time.sleep(script.chunk_delay_secs)
        self._event({**common, "choices": [{"index": 0, "delta": {}, "finish_reason": script.finish}]})
        if script.usage is not None:
            self._event({**common, "choices": [], "usage": _usage(script.usage)})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.flush()

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        # A reset, not an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()


def _usage(usage: tuple[int, int]) -> dict[str, int]:
    return {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}


def _openai(request: dict[str, Any], script: Script) -> dict[str, Any]:
    message = script.message or {"role": "assistant", "content": script.text}
    choice = {"index": 0, "message": message, "finish_reason": script.finish}
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": request["model"]}
    usage = {} if script.usage is None else {"usage": _usage(script.usage)}
    return answer | {"choices": [choice]} | usage


def _anthropic(request: dict[str, Any], script: Script) -> dict[str, Any]:
    tokens = script.usage or (0, 0)
    return {
        "id": "x",
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": [{"type": "text", "text": script.text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": tokens[0],
            "output_tokens": tokens[1],
            "cache_read_input_tokens": 300,
            "cache_creation_input_tokens": 0,
        },
    }


def _google(script: Script) -> dict[str, Any]:
    prompt, answer = script.usage or (0, 0)
    usage = {"promptTokenCount": prompt, "candidatesTokenCount": answer, "totalTokenCount": prompt + answer}
    content = {"role": "model", "parts": [{"text": script.text}]}
    return {"candidates": [{"content": content, "finishReason": "STOP", "index": 0}], "usageMetadata": usage}

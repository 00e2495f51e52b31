"""A server on loopback that speaks OpenAI's protocol."""

import json
import sys
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = {"id": "stub", "object": "model", "created": 1, "owned_by": "us", "root": "lab/stub"}


def completion(text: str | None, first_token: dict[str, float] | None = None) -> dict[str, Any]:
    """A chat completion that says `text`; first_token: the log-probabilities of its alternatives."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if first_token is not None:
        top = [{"token": token, "logprob": value, "bytes": None} for token, value in first_token.items()]
        choice["logprobs"] = {"content": [top[0] | {"top_logprobs": top}]}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "stub", "choices": [choice]}


def question_of(body: dict[str, Any]) -> str:
    """The text of a request."""
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), OSError):  # a client that ended in the middle
            super().handle_error(request, client_address)


class ChatServer:
    """Answers each request by `reply(body, number)`: (status, JSON or bytes, maybe headers), or None to hang up.

    requests: (path, body) of each, in order of arrival. most: the most that were under way at once.
    """

    def __init__(
        self, reply: Callable[[dict[str, Any], int], tuple[Any, ...] | None], models: Sequence[Any] = (MODEL,)
    ):
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.keys: set[str | None] = set()
        self.at_once = self.most = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def send(self, status, data, headers=()):
                data = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if data.startswith(b"<") else "application/json")
                self.send_header("Content-Length", str(len(data)))
                for header in dict(headers).items():
                    self.send_header(*header)
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                self.send(200, {"object": "list", "data": list(models)})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.requests.append((self.path, body))
                    outer.keys.add(self.headers["Authorization"])
                    number = len(outer.requests)
                    outer.at_once += 1
                    outer.most = max(outer.most, outer.at_once)
                try:
                    answer = reply(body, number)
                    if answer is None:
                        self.close_connection = True
                    else:
                        self.send(*answer)
                except OSError:
                    pass
                finally:
                    with outer.lock:
                        outer.at_once -= 1

        self.http = _Server(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

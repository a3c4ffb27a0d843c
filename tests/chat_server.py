"""A chat endpoint for tests: a real HTTP server on this machine that speaks the OpenAI protocol and
fails as it is told to."""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from speechdst.chat import ChatEndpoint, Endpoint

KEY = "sk-this-key-is-secret-0123456789"
Fault = Callable[[BaseHTTPRequestHandler], None]


@dataclasses.dataclass
class Server:
    """`reply`: request -> text of the completion; `faults`: what is done instead for the next
    requests, in order (None: nothing); `requests`, `keys`: what was received."""

    url: str
    reply: Callable[[dict], str] = lambda request: "yes"
    faults: list[Fault | None] = dataclasses.field(default_factory=list)
    requests: list[dict] = dataclasses.field(default_factory=list)
    keys: list[str] = dataclasses.field(default_factory=list)

    def client(self, cache=None, pauses: list | None = None, **settings) -> ChatEndpoint:
        """Asks this server; its pauses are not waited for but noted in `pauses`."""
        settings = {"model": "test-model", "key_variable": "TEST_CHAT_KEY", "timeout": 5.0,
                    **settings}
        sleep = ([] if pauses is None else pauses).append
        return ChatEndpoint(Endpoint(self.url, **settings), cache, sleep=sleep)


@contextlib.contextmanager
def serve(monkeypatch) -> Iterator[Server]:
    """A server for the length of a test; TEST_CHAT_KEY holds its key, and no proxy is asked."""
    monkeypatch.setenv("TEST_CHAT_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        http.served = Server(f"http://127.0.0.1:{http.server_port}/v1")
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield http.served
        http.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        served: Server = self.server.served
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        served.requests.append(request)
        served.keys.append(self.headers.get("Authorization", ""))
        fault = served.faults.pop(0) if served.faults else None
        if self.path != "/v1/chat/completions":
            send(self, 404, "no such path")
        elif fault is not None:
            fault(self)
        else:
            send(self, 200, completion(served.reply(request)))

    def log_message(self, *_):
        pass


def completion(text) -> dict:
    return {"id": "c1", "object": "chat.completion", "model": "test-model-2026",
            "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
            "choices": [{"index": 0, "finish_reason": "stop",
                         "message": {"role": "assistant", "content": text}}]}


def send(handler, status: int, body, **headers: str) -> None:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def status(code: int, body: str = "oh no", **headers: str) -> Fault:
    return lambda handler: send(handler, code, body, **headers)


def says(body) -> Fault:
    """Status 200 with this for a body."""
    return lambda handler: send(handler, 200, body)


def late(seconds: float) -> Fault:
    """Nothing for that long, then the line is cut."""

    def fault(handler):
        time.sleep(seconds)
        handler.close_connection = True

    return fault


def dribbles(seconds: float) -> Fault:
    """A reply that never times out between two of its bytes, and takes that long."""

    def fault(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        end = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while time.monotonic() < end:
                handler.wfile.write(b" ")
                time.sleep(0.02)
        handler.close_connection = True

    return fault


def cut_off(handler) -> None:
    """Fewer bytes than were announced."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def hangs_up(handler) -> None:
    """No reply at all."""
    handler.close_connection = True

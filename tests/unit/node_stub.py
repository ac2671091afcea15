"""A daemon's HTTP server that answers what a test wants, and what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import msgspec

from joulebook.run_figures import NodeRuns

Answer = Callable[[str, dict[str, str]], object]


class NodeStub(ThreadingHTTPServer):
    """Serves; `asked` are the paths and queries so far, with the header of the one who asks."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, str], str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def listen(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: NodeStub

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        self.server.asked.append((parts.path, query, self.headers.get("Authorization", "")))
        found = b"alive" if parts.path == "/healthz" else self.server.answer(parts.path, query)
        status = 200
        if isinstance(found, int):
            status, found = found, b"no"
        body = found if isinstance(found, bytes) else msgspec.json.encode(found)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def node(answer: Answer | NodeRuns) -> Iterator[NodeStub]:
    """Serve until the block ends; a plain value is the answer to everything."""
    server = NodeStub(answer if callable(answer) else lambda path, query: answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

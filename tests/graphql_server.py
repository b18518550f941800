"""A local server that answers GraphQL queries, in the place of W&B's."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def serving(answer: Callable[[str, dict[str, Any]], dict[str, Any]]) -> Iterator[str]:
    """The address of a server that gives `answer(query, variables)`; both are empty for what is no GraphQL query."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked: dict[str, Any] = json.loads(text) if self.path == "/graphql" else {}
            content = json.dumps(answer(asked.get("query", ""), asked.get("variables") or {})).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()

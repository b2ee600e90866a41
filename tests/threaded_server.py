"""What doubles of HTTP servers have in common: a free port, and a thread for each request."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class ThreadedServer:
    """Listens inside ``with``.

    Args:
        serve: Answers a request, in a thread of its own.
        methods: That it is given.
    """

    def __init__(self, serve: Callable[[BaseHTTPRequestHandler], None], *methods: str) -> None:
        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_words: object) -> None:
                pass

        for method in methods:
            setattr(Answers, f"do_{method}", lambda request: serve(request))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()

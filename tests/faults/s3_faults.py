"""A front of an S3 server that goes wrong on demand, request by request.

::

    with S3Faults(s3.url) as front:
        front.plan("part", "cut")
        ...  # the first part is cut; the next attempt comes through

The ``Host`` is passed on as it came, since S3's signatures cover it.
"""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from threaded_server import ThreadedServer

CODES = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown", 507: "InsufficientStorage"}


class S3Faults(ThreadedServer):
    """Listens on a free port inside ``with``.

    A fault is one of

    - ``dropped``: the connection ends, and the server gets nothing,
    - ``cut``: likewise, with half of what was sent,
    - ``lost``: the server gets it, and its answer does not come back,
    - ``shortened``: half of the answer comes back,
    - a status of `CODES`: the server gets nothing.

    Attributes:
        seen: What was asked: ``create``, ``part``, ``complete``, ``abort``, ``parts``, ``head``,
            ``list``, ``get``, ``put``, ``delete``.
    """

    def __init__(self, upstream: str) -> None:
        self._upstream = urlsplit(upstream).netloc
        self._plans: list[tuple[str, str]] = []
        self._always: dict[str, str] = {}
        self._lock = threading.Lock()
        self.seen: list[str] = []
        super().__init__(self._serve, "GET", "PUT", "POST", "DELETE", "HEAD")

    def plan(self, what: str, fault: str) -> None:
        """Have the next request of a kind go wrong."""
        self._plans.append((what, fault))

    def always(self, what: str, fault: str | None) -> None:
        """Have each request of a kind go wrong; none any more."""
        if fault is None:
            self._always.pop(what, None)
        else:
            self._always[what] = fault

    @property
    def happened(self) -> bool:
        """Whether all that was planned has gone wrong."""
        return not self._plans

    def _fault(self, what: str) -> str | None:
        with self._lock:
            self.seen.append(what)
            if what in self._always:
                return self._always[what]
            if self._plans and self._plans[0][0] == what:
                return self._plans.pop(0)[1]
            return None

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        what = _kind(handler.command, handler.path)
        fault = self._fault(what)
        length = int(handler.headers.get("Content-Length") or 0)
        if fault == "dropped":
            return _end(handler)
        if fault == "cut":
            handler.rfile.read(length // 2)
            return _end(handler)
        body = handler.rfile.read(length)
        if fault is not None and fault.isdecimal():
            code = CODES[int(fault)]
            text = f"<Error><Code>{code}</Code><Message>planned</Message></Error>".encode()
            return _answer(handler, int(fault), {"Content-Type": "application/xml"}, text)
        headers = {
            key: value
            for key, value in handler.headers.items()
            if key.lower() not in ("connection", "expect")
        }
        upstream = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            upstream.request(handler.command, handler.path, body or None, headers)
            got = upstream.getresponse()
            content = got.read()
        finally:
            upstream.close()
        if fault == "lost":
            return _end(handler)
        said = {
            key: value
            for key, value in got.getheaders()
            if key.lower() not in ("connection", "transfer-encoding", "content-length", "date")
        }
        said["Content-Length"] = got.getheader("Content-Length") or str(len(content))
        if fault == "shortened":
            content = content[: len(content) // 2]
            handler.close_connection = True
        return _answer(handler, got.status, said, content)


def _kind(method: str, path: str) -> str:
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    match method:
        case "POST":
            return "create" if "uploads" in query else "complete"
        case "PUT":
            return "part" if "partNumber" in query else "put"
        case "DELETE":
            return "abort" if "uploadId" in query else "delete"
        case "GET" if "uploadId" in query:
            return "parts"
        case "GET" if "list-type" in query:
            return "list"
        case _:
            return method.lower()


def _end(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.connection.close()


def _answer(
    handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes
) -> None:
    handler.send_response(status)
    for key, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(key, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)

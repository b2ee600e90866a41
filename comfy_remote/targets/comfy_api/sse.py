"""Server-sent events, from the bytes of a stream. No I/O.

Facts: the HTML Living Standard, 9.2.6. Ids and the time to reconnect are ignored: the streams of
Comfy API v2 have neither.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["EventTooLarge", "SseDecoder"]


_OF_A_LINE = 64
"""Bytes of memory that a line takes besides its text."""


class EventTooLarge(Exception):
    """An event has more bytes than are accepted."""


class SseDecoder:
    """Collects what arrives, and gives each event once it is whole.

    Args:
        most_bytes: Of one event; all that is stored at a time.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._rest = bytearray()
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False

    def feed(self, chunk: bytes) -> Iterator[tuple[str, bytes]]:
        """The events that this chunk completes: name (``message`` where it has none) and data.

        Raises:
            EventTooLarge: One does not end in time; nothing more can be read.
        """
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        lines = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines[:-1]:
            whole = bytes(self._rest) + line if self._rest else line
            self._rest.clear()
            if whole:
                self._line(whole)
            elif self._data:
                yield self._name or "message", b"\n".join(self._data)
                self._reset()
            else:
                self._reset()
        self._rest += lines[-1]
        self._check()

    def _line(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value) + _OF_A_LINE
        elif field == b"event":
            self._name = value[:100].decode("utf-8", "replace")
        self._check()

    def _check(self) -> None:
        if self._size + len(self._rest) > self._most:
            raise EventTooLarge

    def _reset(self) -> None:
        self._name, self._size = "", 0
        self._data.clear()

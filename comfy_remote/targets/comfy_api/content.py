"""The bytes of a job's outputs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from ...errors import OutputLost, TargetError
from ...net.http import HttpClient, version_in
from ...outputs import RemoteOutput

__all__ = ["OutputContent"]

_REDIRECTS = 3
_MOST_VERSIONS = 1000


class OutputContent:
    """Reads outputs from a server, or from the storage to which that leads.

    Args:
        name: Of the target.
    """

    def __init__(self, http: HttpClient, name: str) -> None:
        self._http, self._name = http, name
        self._versions: dict[str, str] = {}

    async def read(self, output: RemoteOutput, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of an output, from an offset on.

        Raises:
            OutputLost: The server has it no more.
            ComfyRemoteError: It could not be read.
        """
        path = output.source.path if output.source is not None else None
        if path is None:
            raise OutputLost(f"{self._name} did not say where {output.filename} is.")

        def note(headers: Mapping[str, str]) -> None:
            if (version := version_in(headers)) is not None:
                self._versions[path] = version
            if len(self._versions) > _MOST_VERSIONS:
                del self._versions[next(iter(self._versions))]

        try:
            stream = self._http.stream(path, offset, note, redirects=_REDIRECTS)
            async with aclosing(stream) as chunks:
                async for chunk in chunks:
                    yield chunk
        except TargetError as error:
            if error.details.get("http_status") not in (404, 410):
                raise
            raise OutputLost(
                f"{self._name} no longer has {output.filename}.",
                advice="A server has outputs for a limited time, and only while its ComfyUI has "
                "their files. Run the workflow again.",
                details=error.details,
            ) from error

    def version_of(self, output: RemoteOutput) -> str | None:
        """The ``ETag`` that came with it; without one, its address, as an asset never changes."""
        path = output.source.path if output.source is not None else None
        return None if path is None else self._versions.get(path, path)

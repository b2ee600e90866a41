"""A server that speaks Comfy API v2."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...net.address import base_address, check_key_is_safe
from ...net.http import HttpClient, HttpLimits
from ...net.retry import Polling

if TYPE_CHECKING:
    import ssl

    from pydantic import SecretStr

__all__ = ["ComfyApiTarget", "ComfyApiTimes"]


@dataclass(frozen=True, slots=True)
class ComfyApiTimes:
    """How long a client waits for what, in seconds.

    Attributes:
        requests: Those of each request.
        polling: How often it asks how a job stands.
    """

    requests: HttpLimits = HttpLimits()  # noqa: RUF009 - frozen
    polling: Polling = Polling(first=0.25)  # noqa: RUF009 - frozen


class ComfyApiTarget:
    """The `Target` of one server that speaks Comfy API v2.

    Args:
        url: Of the server, and of the folder below which its API is mounted, without
            ``/api/v2``: ``https://cloud.comfy.org``, ``http://127.0.0.1:8189``.
        name: What to call it in errors; the URL by default.
        headers: Sent with every request to that server, and nowhere else; with any, the URL is
            ``https``, or on this machine.
        partner_key: The key that nodes which run at a provider (partner nodes) log in with. Sent
            with each job, recorded nowhere; ``None`` to send none.
        storage_hosts: ``HOST`` or ``HOST:PORT`` in a private network from which outputs may come;
            see `net.guard`.
        times: How long it waits for what.
        tls: Which certificates are trusted; those that the system trusts when ``None``.

    Raises:
        ConfigurationError: The URL is invalid, or the headers would travel in the clear.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        headers: Mapping[str, SecretStr] | None = None,
        partner_key: SecretStr | None = None,
        storage_hosts: Collection[str] = (),
        times: ComfyApiTimes = ComfyApiTimes(),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        if headers or partner_key is not None:
            check_key_is_safe(base_address(self.url))
        self._name = name or self.url
        self._partner_key = partner_key
        self._times = times
        # An address that is its own name is said once.
        self._http = HttpClient(
            self.url,
            name="Comfy API" if self._name == self.url else self._name,
            headers=headers,
            elsewhere=storage_hosts,
            limits=times.requests,
            tls=tls,
        )

    @property
    def name(self) -> str:
        """The URL, or the name given."""
        return self._name

    @property
    def server(self) -> dict[str, str]:
        """Its URL."""
        return {"comfy_api": self.url}

"""boto3's requests through the guard: each connection goes to an IP address that it permitted.

boto3 resolves names itself, so an address that was checked before could lead elsewhere when it
connects. Its event ``before-send`` lets us send a request ourselves: the name is resolved here,
and the connection made to the address that was looked at. The certificate is still checked
against the name.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Protocol

from yarl import URL

from .guard import Guard, PrivateAddress, proxy_for

if TYPE_CHECKING:
    import urllib3

__all__ = ["PinnedSender"]


class _PreparedRequest(Protocol):
    """What we use of botocore's ``AWSPreparedRequest``."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | IO[bytes] | None


class PinnedSender:
    """A handler for boto3's ``before-send``. Blocking; used by several threads at once.

    Args:
        connect_timeout: Seconds until a connection is there.
        read_timeout: Seconds without a byte.
    """

    def __init__(
        self, guard: Guard, what: str, *, connect_timeout: float = 15.0, read_timeout: float = 120.0
    ) -> None:
        import urllib3

        self._guard = guard
        self._what = what
        self._timeout = urllib3.Timeout(connect=connect_timeout, read=read_timeout)
        self._ssl = ssl.create_default_context()

    def __call__(self, request: _PreparedRequest, **_: object) -> object:
        """Send one prepared request.

        Raises:
            TargetError: Its address may not be asked.
            botocore.exceptions.HTTPClientError: It could not be reached; boto3 tries again.
        """
        import urllib3
        from botocore.awsrequest import AWSResponse
        from botocore.exceptions import HTTPClientError

        url = self._guard.check(request.url, self._what)
        # "Expect: 100-continue" is for boto3's own connections, which know how to wait.
        headers = {k: v for k, v in dict(request.headers).items() if k.lower() != "expect"}
        try:
            with self._pool(url, headers) as pool:
                response = pool.urlopen(
                    request.method,
                    URL(request.url, encoded=True).raw_path_qs,
                    body=request.body,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    assert_same_host=False,
                    preload_content=False,
                    decode_content=False,
                )
                answer = AWSResponse(request.url, response.status, response.headers, response)
                answer.content  # noqa: B018  reads it whole: no answer that we ask boto3 for is large
                return answer
        except PrivateAddress as error:
            raise self._guard.private(url.host or "", self._what) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise HTTPClientError(error=error) from error

    def _pool(self, url: URL, headers: dict[str, str]) -> urllib3.HTTPConnectionPool:
        import urllib3

        host, port = url.raw_host or "", url.port or 443
        if (proxy := proxy_for(url)) is not None:
            self._guard.refuse_private(url)
            manager = urllib3.ProxyManager(proxy, timeout=self._timeout, ssl_context=self._ssl)
            return manager.connection_from_url(str(url.origin()))
        address = self._guard.resolved(host, port)[0]
        # As it was signed: without the usual port.
        headers["Host"] = (url.with_port(None) if url.is_default_port() else url).authority
        if url.scheme == "http":
            return urllib3.HTTPConnectionPool(address, port, timeout=self._timeout)
        return urllib3.HTTPSConnectionPool(
            address,
            port,
            timeout=self._timeout,
            ssl_context=self._ssl,
            server_hostname=host,
            assert_hostname=host,
        )

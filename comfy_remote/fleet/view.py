"""The gateway, as the fleet's head sees it: its queue, its workers, and what it is told."""

from __future__ import annotations

import ssl

from pydantic import BaseModel, SecretStr, ValidationError

from ..errors import TargetError
from ..json_text import problems_in
from ..net.http import HttpClient, HttpLimits
from ..net.retry import Backoff
from .sizing import GatewayView, GatewayWorker

__all__ = ["Gateway"]

_LIMITS = HttpLimits(patience=10.0, answer=64 * 1024**2, backoff=Backoff(attempts=1))


class _Totals(BaseModel):
    waiting: int
    running: int


class _Worker(BaseModel):
    id: str
    state: str
    seconds: float | None = None
    why: str = ""


class _Overview(BaseModel):
    """The parts of `gateway.seen.overview.Overview` that are used; what is new there is ignored."""

    totals: _Totals
    workers: list[_Worker]


class Gateway:
    """Requests to the gateway, with its clients' token. Used as an asynchronous context manager.

    Args:
        url: Of the gateway.
        token: ``None`` where it wants none.
    """

    def __init__(
        self, url: str, endpoint: str, token: SecretStr | None, tls: ssl.SSLContext | None = None
    ) -> None:
        bearer = None if token is None else SecretStr(f"Bearer {token.get_secret_value()}")
        headers = {} if bearer is None else {"Authorization": bearer}
        base = f"{url.rstrip('/')}/v2/{endpoint}"
        self._http = HttpClient(base, name="The gateway", headers=headers, limits=_LIMITS, tls=tls)

    async def __aenter__(self) -> Gateway:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.__aexit__(*exc_info)

    async def look(self) -> GatewayView:
        """Its queue and its workers.

        Raises:
            TargetError: It does not answer, or not as a gateway of ours.
            AuthenticationError: It does not take the token.
        """
        answer = (await self._http.get_once("/overview")).json()
        try:
            seen = _Overview.model_validate(answer)
        except ValidationError as error:
            raise TargetError(
                f"The gateway's overview cannot be understood: {problems_in(error, 'answer')}"
            ) from error
        workers = {one.id: GatewayWorker(one.state, one.seconds, one.why) for one in seen.workers}
        return GatewayView(seen.totals.waiting, seen.totals.running, workers)

    async def say_gone(self, name: str) -> None:
        """Say that a worker is dead: its job goes to another."""
        # 404: it has forgotten that one already.
        await self._http.post_once(f"/gone/{name}", accept=(404,))

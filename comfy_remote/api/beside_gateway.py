"""Comfy API v2 beside a gateway, on its own queue: what ``comfy-remote serve`` offers besides."""

from __future__ import annotations

from pydantic import SecretStr
from yarl import URL

from ..config.folders import home
from ..gateway import GatewayServer
from ..jobs.client import Client
from ..targets.runpod.kind import EndpointOptions
from ..targets.runpod.target import RunPodTarget
from ..wire.comfy_api import API_PATH
from .front import ApiFront, front_folder

__all__ = ["gateway_front"]


class _OwnQueue(RunPodTarget):
    """A gateway in the same process."""

    def __init__(self, gateway: GatewayServer, token: SecretStr | None) -> None:
        async def address() -> str:
            return gateway.local_url  # known once it listens

        super().__init__(
            gateway.endpoint_id,
            token,
            base_url="http://127.0.0.1/v2",
            find=address,
            options=EndpointOptions(memory=home() / "endpoints", home=home()),
        )
        self._gateway_server = gateway

    @property
    def server(self) -> dict[str, str]:
        """As jobs are recorded: the same after each start, unlike the port that is used here."""
        there = URL(self._gateway_server.url).with_host("127.0.0.1")
        return {**super().server, "base_url": str(there)}


def gateway_front(gateway: GatewayServer, token: SecretStr | None) -> ApiFront:
    """The API in front of a gateway that has not been started yet, and served by it.

    It uses the gateway as any other client does, so what a restart does not lose there is not lost
    here. It is opened by the first request; closing it is up to the caller.

    Args:
        token: The gateway's.
    """

    target = _OwnQueue(gateway, token)
    name = f"serve-{gateway.endpoint_id}"
    front = ApiFront(Client(target, on_interrupt=None), name, front_folder(name))
    gateway.add_application(API_PATH, front.application(token))
    return front

"""How to reach one target, and the ways to write its address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..net.address import pod_proxy_url

__all__ = [
    "MODAL_PROXY_HEADERS",
    "POD",
    "TargetSettings",
    "comfyui_url",
    "is_address",
    "modal_front",
]

MODAL_PROXY_HEADERS = {
    "Modal-Key": "MODAL_PROXY_TOKEN_ID",
    "Modal-Secret": "MODAL_PROXY_TOKEN_SECRET",
}
"""The headers of Modal's proxy authentication, each with the variable that holds its value."""
POD = re.compile(r"^pod:([a-z0-9]+)$", re.IGNORECASE)

_POD_PROXY = re.compile(r"^[a-z0-9]+-\d+\.proxy\.runpod\.net(/.*)?$", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"^(\[[0-9a-f:]+\]|[a-z0-9.-]+):\d{1,5}/?$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """How to reach one target: a ``[targets.NAME]`` table, or what was typed after ``--on``.

    Attributes:
        target: ``runpod:ENDPOINT``, ``modal:APP``, ``pod:ID``, ``pod:auto``, ``sandbox`` or a
            ComfyUI URL.
        base_url: For ``runpod:``, another server that speaks RunPod's API. For ``modal:``, the
            address of the app's front, which Modal's SDK is asked for otherwise.
        key_env: Name of the environment variable with the key; ``RUNPOD_API_KEY`` for
            ``runpod:``. A ComfyUI URL gets it as a bearer token, if the variable is named.
        price_per_hour: US dollars for an hour of its GPU, to tell about what a run costs.
        user: For a ComfyUI behind a login by name and password.
        password_env: Name of the variable with that password.
        headers_env: For a ComfyUI behind something else: the headers to send, each with the
            name of the variable that holds its value. For ``modal:``, ``Modal-Key`` and
            ``Modal-Secret`` by default, from ``MODAL_PROXY_TOKEN_ID`` and ``…_SECRET``.
        keep_stored: For ``runpod:``, whether outputs that a worker had put into storage stay
            there once they have been fetched.
        bucket: For ``runpod:``, the address of the S3-compatible bucket that input files go
            by which do not fit a request; ``BUCKET_ENDPOINT_URL`` by default. Its keys are
            ``BUCKET_ACCESS_KEY_ID`` and ``BUCKET_SECRET_ACCESS_KEY`` in the environment.
        policy: For ``runpod:``, RunPod's own ``policy`` of every request: ``executionTimeout``
            and ``ttl`` in milliseconds, ``lowPriority``.
    """

    target: str
    base_url: str | None = None
    key_env: str | None = None
    price_per_hour: float | None = None
    user: str | None = None
    password_env: str | None = None
    headers_env: Mapping[str, str] = field(default_factory=dict)
    keep_stored: bool = False
    bucket: str | None = None
    policy: Mapping[str, int | bool] | None = None

    @property
    def key_variable(self) -> str | None:
        """The environment variable that its key is read from; ``None`` where it takes none."""
        if self.key_env is None and self.target.startswith("runpod:"):
            return "RUNPOD_API_KEY"
        return self.key_env

    @property
    def secret_variables(self) -> tuple[str, ...]:
        """All the variables that its secrets are read from."""
        headers = self.headers_env
        if self.target.startswith("modal:") and not headers:
            headers = MODAL_PROXY_HEADERS
        named = (self.key_variable, self.password_env, *headers.values())
        return tuple(dict.fromkeys(name for name in named if name))


def is_address(text: str) -> bool:
    """Whether a text says itself where a target is, so that no file has to."""
    return (
        text == "sandbox"
        or text.startswith(("runpod:", "modal:", "http://", "https://"))
        or _POD_PROXY.match(text) is not None
        or POD.match(text) is not None
        or _HOST_AND_PORT.match(text) is not None
    )


def comfyui_url(address: str) -> str:
    """The URL of a ComfyUI that was given by any `is_address`: ``host:port``, ``pod:ID``, a URL."""
    if "://" in address:
        return address
    if pod := POD.match(address):
        return pod_proxy_url(pod[1])
    return f"https://{address}" if _POD_PROXY.match(address) else f"http://{address}"


def modal_front(settings: TargetSettings) -> str | None:
    """The configured address of a Modal app's front; ``None`` where Modal has to be asked."""
    url = (settings.base_url or "").rstrip("/").removesuffix("/v2")
    return f"{url}/" if url else None

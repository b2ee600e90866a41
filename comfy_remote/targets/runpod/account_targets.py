"""What a RunPod account has to run workflows on, for people to choose from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from ...errors import AuthenticationError, ComfyRemoteError, ConfigurationError
from ...secrets import secret
from .account import account_endpoints
from .kind import API_KEY_VARIABLE
from .pods import account_pods

__all__ = ["AccountTarget", "account_targets"]

_Listed = TypeVar("_Listed")


@dataclass(frozen=True, slots=True)
class AccountTarget:
    """An endpoint or a pod of an account.

    Attributes:
        address: Of a target.
        name: What its owner calls it.
        text: Its id, its name and what it runs on, for people.
    """

    kind: Literal["endpoint", "pod"]
    address: str
    name: str
    text: str


async def account_targets(environment: Mapping[str, str]) -> list[AccountTarget]:
    """The account's endpoints and running pods; one of the two, if its key may not see both.

    Raises:
        ConfigurationError: There is no key.
        AuthenticationError: RunPod does not take it.
        TargetError: RunPod cannot be asked, or its answer is not understood.
    """
    key = await asyncio.to_thread(secret, API_KEY_VARIABLE, environment)
    if key is None:
        raise ConfigurationError(f"{API_KEY_VARIABLE} is not set.", advice="Type the key.")
    environment = {**environment, API_KEY_VARIABLE: key.get_secret_value()}
    endpoints, pods = await asyncio.gather(
        _or_error(account_endpoints(key, environment)), _or_error(account_pods(environment))
    )
    if isinstance(endpoints, AuthenticationError) and isinstance(pods, ComfyRemoteError):
        raise AuthenticationError(
            "RunPod refused the key.",
            advice="Copy it again from RunPod's console (Settings > API Keys). It must be allowed "
            "to read the account's endpoints or pods.",
            details=endpoints.details,
        )
    if isinstance(endpoints, ComfyRemoteError) and isinstance(pods, ComfyRemoteError):
        raise endpoints
    found: list[AccountTarget] = []
    if not isinstance(endpoints, ComfyRemoteError):
        for one in endpoints:
            found.append(AccountTarget("endpoint", f"runpod:{one.id}", one.name, str(one)))
    if not isinstance(pods, ComfyRemoteError):
        for pod in pods:
            if pod.running:
                found.append(AccountTarget("pod", f"pod:{pod.id}", pod.name, str(pod)))
    return found


async def _or_error(listing: Awaitable[_Listed]) -> _Listed | ComfyRemoteError:
    try:
        return await listing
    except ComfyRemoteError as error:
        return error

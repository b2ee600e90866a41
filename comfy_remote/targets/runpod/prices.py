"""What a RunPod endpoint costs an hour, by RunPod's list of prices; and a pod.

Facts (docs.runpod.io/serverless/pricing, and the OpenAPI document of REST API v2): a worker is
billed by the second from its start until it has stopped, starting and waiting included. It runs on
whichever GPU of the endpoint's pools is free, at the rate of that pool times the GPUs that a worker
has. An active worker (``workers.min``) is billed all day; a lower rate for those is agreed upon
with RunPod and not in the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar
from urllib.parse import quote

from pydantic import BaseModel, SecretStr

from ...errors import TargetError
from ...schedule.bill import Running
from ...schedule.money import Price
from ...units import counted
from ...wire.runpod_endpoints import RestEndpoint, RestEndpointList
from ...wire.runpod_pods import RestPod
from ...wire.runpod_prices import HIGHEST_PRICE, RestGpu, RestGpuList
from .account import ask_account

__all__ = ["active_workers", "endpoint_price", "pod_price", "price_by"]

_Answer = TypeVar("_Answer", bound=BaseModel)


async def endpoint_price(
    key: SecretStr, environment: Mapping[str, str], endpoint: str
) -> Price | None:
    """The price of a worker of an endpoint; ``None`` if the account has no such endpoint.

    Raises:
        AuthenticationError: The key may not ask it.
        TargetError: RunPod cannot be asked, or its answer is not understood.
    """
    path = f"v2/serverless/{quote(endpoint, safe='')}"
    found = await _found(key, environment, path, RestEndpoint)
    if found is None:
        return None
    catalog = await ask_account(key, environment, "v2/catalog/gpus", RestGpuList)
    return price_by(found, catalog.gpus)


async def pod_price(key: SecretStr, environment: Mapping[str, str], pod: str) -> Price | None:
    """What a pod is billed at now; ``None`` if it is stopped, or not the account's.

    Raises as `endpoint_price`.
    """
    found = await _found(key, environment, f"v2/pods/{quote(pod, safe='')}", RestPod)
    if found is None or found.cost is None or not 0 < found.cost <= HIGHEST_PRICE:
        return None
    return Price(found.cost, "RunPod")


async def active_workers(key: SecretStr, environment: Mapping[str, str]) -> list[Running]:
    """The account's endpoints whose workers run all the time, and what they cost.

    Raises as `endpoint_price`.
    """
    found = await ask_account(key, environment, "v2/serverless", RestEndpointList)
    active = [one for one in found.endpoints if one.workers is not None and one.workers.min > 0]
    if not active:
        return []
    catalog = await ask_account(key, environment, "v2/catalog/gpus", RestGpuList)
    running = []
    for one in active:
        price = price_by(one, catalog.gpus)
        workers = counted(one.workers.min if one.workers is not None else 0, "active worker")
        title = ", ".join(part for part in (one.name, workers) if part)
        per_hour = None if price is None else price.standing
        running.append(Running(f"runpod:{one.id}", title, per_hour, None))
    return running


async def _found(
    key: SecretStr, environment: Mapping[str, str], path: str, model: type[_Answer]
) -> _Answer | None:
    try:
        return await ask_account(key, environment, path, model)
    except TargetError as error:
        if error.details.get("http_status") == 404:
            return None
        raise


def price_by(endpoint: RestEndpoint, gpus: Iterable[RestGpu]) -> Price | None:
    """The price of one of its workers by a list of prices.

    That of the dearest GPU that it may get. ``None`` for an endpoint without GPUs, or if a pool
    that it may take them from has no price: that one may be the dearest.
    """
    gpu = endpoint.gpu
    if gpu is None or gpu.count < 1 or not gpu.pools:
        return None
    excluded = {one.strip() for one in gpu.excluded}
    rates = []
    for pool in gpu.pools:
        there = [one for one in gpus if one.pool == pool]
        eligible = [one for one in there if one.id.strip() not in excluded]
        if there and not eligible:
            continue
        known = [one.price.serverless for one in eligible if one.price.serverless is not None]
        if not known:
            return None
        rates += known
    if not rates:
        return None
    highest, lowest = (find(rates) * gpu.count for find in (max, min))
    active = endpoint.workers.min if endpoint.workers is not None else 0
    return Price(
        highest,
        "RunPod's list of prices",
        lowest=lowest if lowest < highest else None,
        standing=max(0, active) * highest,
    )

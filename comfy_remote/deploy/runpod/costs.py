"""What a volume and the workers of an endpoint cost, used or not, and where no GPU is free."""

from __future__ import annotations

from collections.abc import Sequence

from ...targets.runpod.prices import price_by
from ...units import counted, dollars
from ...wire.runpod_endpoints import EndpointRequest, RestEndpoint, RestGpuChoice, RestWorkers
from .gpus import gpus_of
from .listed import LISTED_ON, volume_per_month
from .there import There

__all__ = ["HOURS_A_MONTH", "availability_notes", "changed", "endpoint_cost", "volume_cost"]

HOURS_A_MONTH = 730


def volume_cost(size: int, tier: str) -> tuple[str, float | None]:
    """What a volume of so many GB costs: a sentence's part, and US dollars a month if listed."""
    per_month = volume_per_month(size, tier)
    if per_month is None:
        return "its price is in RunPod's console (it differs by data centre)", None
    return f"{dollars(per_month)} a month, used or not (list price of {LISTED_ON})", per_month


def changed(endpoint: RestEndpoint, request: EndpointRequest) -> RestEndpoint:
    """The endpoint as far as its price goes, once it is changed."""
    update: dict[str, object] = {}
    if request.gpu is not None:
        update["gpu"] = RestGpuChoice(
            pools=list(request.gpu.pools),
            excluded=list(request.gpu.excluded or ()),
            count=endpoint.gpu.count if endpoint.gpu is not None else 1,
        )
    if request.workers is not None:
        update["workers"] = RestWorkers(min=request.workers.min or 0, max=request.workers.max or 0)
    return endpoint.model_copy(update=update)


def endpoint_cost(endpoint: RestEndpoint, there: There) -> tuple[str, float | None]:
    """What a worker costs, a sentence's part, and US dollars a month for active workers."""
    least = endpoint.workers.min if endpoint.workers is not None else 0
    price = price_by(endpoint, there.gpus)
    if price is None:
        return "RunPod lists no price for these GPUs", None if least else 0.0
    hour = dollars(price.per_hour)
    if price.lowest is not None:
        hour = f"{dollars(price.lowest)} to {hour}"
    words = f"{hour} an hour for each worker that runs"
    if not least:
        return f"{words}, nothing while none does", 0.0
    per_month = price.standing * HOURS_A_MONTH
    active = counted(least, "active worker")
    return f"{words}; {dollars(per_month)} a month for {active}, used or not", per_month


def availability_notes(
    pools: Sequence[str], excluded: Sequence[str], center: str | None, there: There
) -> list[str]:
    """A sentence, if none of the GPUs is free where they would be."""
    wanted = gpus_of(pools, excluded, there.gpus)
    if not wanted or any(one.availability is None for one in wanted):
        return []
    free = {
        place.id for one in wanted for place in one.centers or [] if place.availability != "NONE"
    }
    names = " or ".join(dict.fromkeys(one.name or one.id for one in wanted))
    if center is not None and center not in free:
        elsewhere = f" Some are free in {', '.join(sorted(free))}." if free else ""
        return [f"{center} has no {names} free now: jobs would wait.{elsewhere}"]
    if center is None and all(one.availability == "NONE" for one in wanted):
        return [f"No {names} is free now: jobs would wait."]
    return []

"""What RunPod has billed for an endpoint or a pod, hour by hour."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from urllib.parse import urlencode

from pydantic import SecretStr

from ...schedule.bill import Billed
from ...wire.runpod_billing import RestBillList
from .account import ask_account

__all__ = ["billed_endpoint", "billed_pod"]


async def billed_endpoint(
    key: SecretStr, environment: Mapping[str, str], endpoint: str, since: float, until: float
) -> list[Billed]:
    """Of one endpoint, between two moments in seconds since the epoch: whole hours.

    Raises:
        AuthenticationError: The key may not ask it.
        TargetError: RunPod cannot be asked, or its answer is not understood.
    """
    query = {"serverlessId": endpoint, **_hours(since, until)}
    found = await ask_account(
        key, environment, f"v2/billing/serverless?{urlencode(query)}", RestBillList
    )
    return [
        Billed(one.start.timestamp(), one.end.timestamp(), one.amount)
        for one in found.records
        if one.endpoint == endpoint
    ]


async def billed_pod(
    key: SecretStr, environment: Mapping[str, str], pod: str, since: float, until: float
) -> list[Billed]:
    """Of one pod; as `billed_endpoint`."""
    query = {"podId": pod, **_hours(since, until)}
    found = await ask_account(key, environment, f"v2/billing/pods?{urlencode(query)}", RestBillList)
    return [
        Billed(one.start.timestamp(), one.end.timestamp(), one.amount)
        for one in found.records
        if one.pod == pod
    ]


def _hours(since: float, until: float) -> dict[str, str]:
    return {
        "startTime": _moment(since),
        "endTime": _moment(until),
        "bucketSize": "hour",
    }


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%SZ}"

"""What a container on Modal costs an hour, by Modal's prices; and what Modal has billed.

Modal's SDK gives the prices of the workspace that is logged in. Without it, those below count.

Facts: `Workspace.billing.rates` of the SDK (since 1.5.4) is a mapping of prices an hour:
``gpu_hour_cost_h100``, ``gpu_hour_cost_a100_80gb``, …, ``cpu_hour_cost`` of a physical core and
``mem_gib_hour_cost``. modal.com/docs/guide/gpu: ``A100`` is the one of 40 GB; whoever asks for a
GPU and gets a larger one (an H100, a B200+) pays for the one that was asked for.
modal.com/docs/guide/region-selection: a region makes everything dearer.
`Workspace.billing.report` has what each app cost in each whole hour, its name in ``description``.
modal.com/docs/guide/resources: what is used above the reserved cores and memory is billed too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.util import find_spec

from ..errors import ConfigurationError, TargetUnreachable
from ..schedule.bill import HOUR, Billed
from ..schedule.money import Price
from ..wire.modal import Hardware

__all__ = ["LISTED", "LISTED_ON", "billed_app", "container_price", "workspace_rates"]

LISTED_ON = "2026-09-29"
"""When the prices below were those of modal.com/pricing, and of ``modal billing rates``."""

LISTED: Mapping[str, float] = {
    "gpu_hour_cost_t4": 0.59,
    "gpu_hour_cost_l4": 0.80,
    "gpu_hour_cost_a10g": 1.10,
    "gpu_hour_cost_l40s": 1.95,
    "gpu_hour_cost_a100_40gb": 2.10,
    "gpu_hour_cost_a100_80gb": 2.50,
    "gpu_hour_cost_rtx_pro_6000": 3.03,
    "gpu_hour_cost_h100": 3.95,
    "gpu_hour_cost_h200": 4.54,
    "gpu_hour_cost_b200": 6.25,
    "cpu_hour_cost": 0.0473,
    "mem_gib_hour_cost": 0.008,
}
"""US dollars an hour: for a GPU, a physical core, a GiB."""

# In a broad region (``us``), and in a narrow one (``us-west``).
_BROAD, _NARROW = 1.5, 1.75
_MOST_GPUS = 8
_SAME = {"a10": "a10g", "a100": "a100_40gb"}

_log = logging.getLogger(__name__)


def container_price(hardware: Hardware, rates: Mapping[str, float] | None) -> Price | None:
    """The price of a container that has its GPUs, and what is reserved for it besides.

    That of the dearest GPU that it may get; ``None`` if one of them has no known price.

    Args:
        rates: Of the workspace, as `workspace_rates` gives them; ``None`` for `LISTED`.
    """
    known = LISTED if rates is None else rates
    besides = _besides(hardware, known)
    gpus = [_gpu_rate(one, known) for one in hardware.gpu]
    found = [one for one in gpus if one is not None]
    if besides is None or not found or len(found) < len(gpus):
        return None
    factor = 1.0
    if hardware.region:
        factor = _NARROW if any("-" in one for one in hardware.region) else _BROAD
    highest, lowest = ((find(found) + besides) * factor for find in (max, min))
    return Price(
        highest,
        f"Modal's prices of {LISTED_ON}" if rates is None else "Modal",
        lowest=lowest if lowest < highest else None,
        standing=hardware.always * highest,
    )


def workspace_rates() -> Mapping[str, float] | None:
    """The prices of the workspace that Modal's SDK has; ``None`` without one. Blocking."""
    if find_spec("modal") is None:
        return None
    import modal

    try:
        found = modal.Workspace.from_context().billing.rates()
        return {name: float(rate) for name, rate in found.items()}
    except AttributeError:
        _log.info("Modal's SDK %s does not tell prices.", modal.__version__)
    except (modal.exception.Error, OSError, ValueError) as error:
        _log.info("Modal did not tell its prices: %s", error)
    return None


def billed_app(app: str, since: float, until: float) -> list[Billed]:
    """What Modal has billed for an app, between two hours. Blocking.

    Raises:
        ConfigurationError: Modal's SDK is not here, too old, or not logged in.
        TargetUnreachable: Modal does not answer.
    """
    if find_spec("modal") is None:
        raise ConfigurationError(
            "Modal's SDK is not installed, which is asked what was billed.",
            advice="Install it with `pip install modal`, then log in once with `modal setup`.",
        )
    import modal

    start, end = (datetime.fromtimestamp(one, timezone.utc) for one in (since, until))
    try:
        billing = modal.Workspace.from_context().billing
        items = billing.report(start=start, end=end, resolution="h")
    except AttributeError as error:
        raise ConfigurationError(
            f"Modal's SDK {modal.__version__} does not tell what was billed.",
            advice="Update it with `pip install --upgrade modal`.",
        ) from error
    except modal.exception.AuthError as error:
        raise ConfigurationError(
            "Modal's SDK is not logged in, so it cannot be asked what was billed.",
            advice="Log in with `modal setup`, or set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET.",
        ) from error
    except (modal.exception.Error, OSError) as error:
        raise TargetUnreachable(
            "Modal could not be asked what was billed.",
            advice="Check the network, and https://status.modal.com.",
        ) from error
    return [
        Billed(began := item.interval_start.timestamp(), began + HOUR, float(item.cost))
        for item in items
        if item.description == app
    ]


def _gpu_rate(name: str, rates: Mapping[str, float]) -> float | None:
    """Of ``H100:2``, twice that of an H100."""
    kind, _, count = name.strip().lower().partition(":")
    kind = kind.rstrip("!+").replace("-", "_")
    number = int(count) if count.isdecimal() and len(count) < 3 else 1 if not count else 0
    if not 1 <= number <= _MOST_GPUS:
        return None
    rate = _rate(f"gpu_hour_cost_{kind}", rates) or _rate(
        f"gpu_hour_cost_{_SAME.get(kind, kind)}", rates
    )
    return None if rate is None else rate * number


def _besides(hardware: Hardware, rates: Mapping[str, float]) -> float | None:
    """Of the cores and the memory that are reserved."""
    core, gib = _rate("cpu_hour_cost", rates), _rate("mem_gib_hour_cost", rates)
    if (hardware.cpu and core is None) or (hardware.memory and gib is None):
        return None
    return (hardware.cpu or 0.0) * (core or 0.0) + (hardware.memory or 0.0) / 1024 * (gib or 0.0)


def _rate(name: str, rates: Mapping[str, float]) -> float | None:
    rate = rates.get(name)
    return rate if rate is not None and math.isfinite(rate) and 0 < rate < 1000 else None

"""Whether a target costs money: asked before everything that only such targets need is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..targets.base import server_of
from ..targets.kinds import Billing, billing_of, kind_of, sent_to

if TYPE_CHECKING:
    from ..config.settings import Configuration
    from ..targets.base import Target

__all__ = ["billed"]


def billed(
    target: Target, configuration: Configuration, environment: Mapping[str, str] = os.environ
) -> tuple[str, Billing | None]:
    """What the configuration calls a target, and how it costs money; ``None`` if it is owned.

    Where it is counts, if it tells: its name may mean another one by now, or be a program's own.
    """
    name, sent = target.name, sent_to(server_of(target))
    known = name in configuration.targets or kind_of(name) is not None
    named = configuration.billing_of(name, environment) if known else None
    kind = None if sent is None else kind_of(sent.target)
    if sent is None or kind is None:
        return name, named
    settings = configuration.targets.get(name)
    if (
        settings is not None
        and settings.price_per_hour
        and kind.same_server(settings, sent, environment)
    ):
        sent = replace(sent, price_per_hour=settings.price_per_hour)
    there = billing_of(sent, environment)
    return (sent.target if named is None else name), there

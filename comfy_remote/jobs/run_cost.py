"""About what a prompt would cost on a target, by what is known here: nobody is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from ..config.settings import Configuration
from ..config.target_settings import TargetSettings
from ..errors import ComfyRemoteError
from ..schedule.choose import Candidate, choose
from ..schedule.money import Price
from ..targets.base import server_of
from ..targets.kinds import Billing, members_of
from ..targets.opening import open_target
from ..types import JsonValue
from ..workflow.prompt import Prompt
from .estimate import RunEstimate, estimate_run
from .prices import remembered_price
from .record import Record

__all__ = ["run_cost"]


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known here of a target.

    Attributes:
        server: See `targets.base.server_of`.
        problem: Why it cannot be opened; empty if it can.
    """

    name: str
    hour: Price | None
    billing: Billing | None
    server: Mapping[str, str]
    problem: str = ""


async def run_cost(record: Record, target: str, prompt: Prompt) -> dict[str, JsonValue]:
    """What past runs say; see ``POST /remote/estimate`` in docs/routes.md.

    Of a route, it is about the member that would be chosen by what is known here: its key, past
    runs, prices, failures, jobs of this user. Which nodes and models a member has is asked when a
    job is sent, so that may go to another one.
    """
    configuration = await asyncio.to_thread(Configuration.load)
    settings = configuration.targets.get(target) or TargetSettings(target)
    members = members_of(settings)
    if not members:
        known = await asyncio.to_thread(_known, target, configuration)
        estimate = await _estimate(record, known, prompt)
        return {**estimate.to_json(), "billing": known.billing, "member": None}
    known_members = {name: await asyncio.to_thread(_known, name, configuration) for name in members}
    estimates = {name: await _estimate(record, one, prompt) for name, one in known_members.items()}
    cooling = await record.read_at_once(record.routes.cooling, members)
    ours = await record.read_at_once(record.routes.ours)
    ranked = choose(
        [
            Candidate(
                name,
                problem=one.problem,
                cooling=cooling.get(name, 0.0),
                ours=ours.get(name, 0),
                at_most=settings.at_most.get(name),
                seconds=estimates[name].seconds,
                price=one.hour,
            )
            for name, one in known_members.items()
        ],
        settings.prefer or "order",
    )
    chosen = ranked[0].name
    said = estimates[chosen].to_json()
    return {**said, "target": target, "billing": known_members[chosen].billing, "member": chosen}


async def _estimate(record: Record, known: _Known, prompt: Prompt) -> RunEstimate:
    billed = known.billing == "by run"
    return await estimate_run(
        record, known.name, prompt, known.hour, server=known.server, billed=billed
    )


def _known(name: str, configuration: Configuration) -> _Known:
    server: Mapping[str, str] = {}
    problem = ""
    try:
        server = server_of(open_target(name, configuration))
    except ComfyRemoteError as error:
        problem = f"cannot be used: {error.message.rstrip('.')}"  # its key is missing
    hour = remembered_price(name, configuration).price
    return _Known(name, hour, configuration.billing_of(name), server, problem)

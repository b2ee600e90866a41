"""``comfy-remote route``: where a run would go, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import print_json, print_table, say
from .options import change_options, inputs_option, load_typed, target_option, workflow_argument

if TYPE_CHECKING:
    from ..config.settings import Configuration
    from ..schedule.choose import Ranked
    from ..targets.route.target import RouteTarget
    from ..workflow.change.prepare import Changes

__all__ = ["route"]


@click.command()
@workflow_argument
@target_option("The route: its name, or route:NAME,NAME. Default: the one that is configured.")
@change_options
@inputs_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def route(
    context: click.Context,
    workflow: Path,
    on: str | None,
    changes: Changes,
    inputs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Show which target of a route would get a run, and why the others would not.

    WORKFLOW is whatever `run` takes. Nothing is run. Price and time are estimates, by
    earlier runs of the workflow on each target. Exit status: 3 if no target can take it, else 0.

    \b
    Examples:
      comfy-remote route workflow.json --on any
      comfy-remote route workflow.json --on route:lan,gpu
      comfy-remote route workflow.json --json | jq -r '.route[] | select(.chosen) | .member'
    """
    from ..errors import TargetError
    from ..schedule.choose import sentence
    from ..targets.route.reasons import to_json
    from .interrupt import run_interruptible

    target = _opened(on)
    ranked = run_interruptible(_decided(target, workflow, changes, inputs))
    able = ranked[0].able
    if as_json:
        print_json(
            {
                "target": target.name,
                "prefer": target.options.prefer,
                "chosen": ranked[0].name if able else None,
                "route": [to_json(one, chosen=able and one is ranked[0]) for one in ranked],
            }
        )
    else:
        print_table(
            ["Target", "", "Price", "Done in", "Why not"], [_row(one, ranked) for one in ranked]
        )
        if able:
            said = sentence(ranked, target.options.prefer)
            say(said.replace("Sent to", "It would be sent to", 1))
        else:
            say(f"No target of {target.name} can take it.")
    if not able:
        context.exit(TargetError.exit_status)


def _opened(on: str | None) -> RouteTarget:
    """The route that is named, or configured."""
    from ..config.settings import Configuration
    from ..errors import ConfigurationError
    from ..targets.opening import open_target
    from ..targets.route.target import RouteTarget

    configuration = Configuration.load()
    target = open_target(on or _configured(configuration), configuration)
    if not isinstance(target, RouteTarget):
        raise ConfigurationError(
            f"{target.name} is not a route.",
            advice="Name one: --on NAME of a route in comfy-remote.toml, or --on route:NAME,NAME.",
        )
    return target


def _configured(configuration: Configuration) -> str:
    """The default target, if that is a route; else the only route there is."""
    from ..targets.kinds import members_of

    routes = [name for name, one in configuration.targets.items() if members_of(one)]
    default = configuration.choose(None)
    return routes[0] if default not in routes and len(routes) == 1 else default


async def _decided(
    target: RouteTarget, workflow: Path, changes: Changes, inputs: tuple[Path, ...]
) -> tuple[Ranked, ...]:
    from ..jobs.client import Client, new_job_id
    from ..targets.base import RunRequest
    from .errors import check_named_files

    loaded = load_typed(workflow, changes.variables())
    check_named_files("--input", inputs)
    async with Client(target, on_interrupt=None) as client:
        ready = await client.prepare(
            loaded, changes=changes, inputs=inputs, base=workflow.absolute().parent
        )
        for note in ready.notes:
            say(note)
        request = RunRequest(new_job_id(), ready.prompt, ready.files, ready.workflow)
        return await target.decide(await client.completed(request, followed=False), ask_all=True)


def _price(cost: float | None) -> str:
    from ..units import about_dollars

    if cost is None:
        return "not known"
    return about_dollars(cost) if cost > 0 else "nothing"


def _row(one: Ranked, ranked: tuple[Ranked, ...]) -> tuple[str, ...]:
    from ..units import about_text

    chosen = "CHOSEN" if one.able and one is ranked[0] else "can" if one.able else "cannot"
    return (
        one.name,
        chosen,
        _price(one.cost),
        "not known" if one.seconds is None else about_text(one.seconds),
        ", and ".join(one.why),
    )

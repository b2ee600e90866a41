"""``comfy-remote fleet``: workers on a Ray cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ..units import counted
from .console import print_json, print_table, say
from .options import SECONDS, json_option

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..fleet.cluster import Cluster
    from ..fleet.seen import FleetStatus, ShownWorker
    from ..fleet.settings import FleetSettings

__all__ = ["fleet"]

_Result = TypeVar("_Result")
_LOOK_EVERY = 0.5
_FIRST_LOOK = 60.0  # seconds until the head of a fleet answers: its machine may be busy

file_option = click.option(
    "--config",
    "config",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("fleet.yaml"),
    show_default=True,
    help="What the fleet is.",
)
address_option = click.option(
    "--address",
    metavar="HOST:PORT",
    default="auto",
    help="The head of the Ray cluster. Default: the cluster that this machine is in.",
)


@click.group()
def fleet() -> None:
    """Run a gateway's workers on a Ray cluster.

    Ray decides where workers are, and starts them again; comfy-remote serve has the jobs. Run it on
    the head of the cluster. Each machine needs Ray: pip install ".[ray]" in Comfy Remote's folder.

    \b
    Examples:
      comfy-remote fleet up --config fleet.yaml
      comfy-remote fleet status
      comfy-remote fleet drain attic
      comfy-remote fleet down
    """


@fleet.command(short_help="Start the fleet, or change it to what the file says now.")
@file_option
@address_option
@click.option(
    "--wait",
    "patience",
    metavar="SECONDS",
    type=SECONDS,
    default=180.0,
    show_default=True,
    help="How long to wait for the first workers. The fleet goes on starting them afterwards.",
)
@click.pass_context
def up(context: click.Context, config: Path, address: str, patience: float) -> None:
    """Start the fleet, or change it to what the file says now.

    Workers that are not what the file says any more are replaced, one after the other, each once
    its job has ended. No job is lost.

    Exit status: 5 if no worker is at work when --wait is over, though there should be some.
    """
    from ..fleet.settings import read_fleet

    settings = read_fleet(config)
    _ask_gateway(settings)

    async def work(cluster: Cluster) -> FleetStatus:
        cluster.start_head(settings)
        return await _watch(cluster, lambda status: _is_up(status, settings), patience)

    status = _with_cluster(settings, address, work)
    working = _at_work(status)
    _print_workers(status)
    own = settings.workers
    say(
        f"{counted(len(working), 'worker')} of {status.wanted} at work for endpoint "
        f"{settings.gateway.endpoint}; {own.min} to {own.max}, as its queue wants."
    )
    if status.wanted and not working:
        say("None is at work yet: comfy-remote fleet status shows more.")
        context.exit(5)


@fleet.command()
@file_option
@address_option
@json_option
def status(config: Path, address: str, json_lines: bool) -> None:
    """Show the machines, the workers and the queue."""
    from ..fleet.settings import read_fleet

    settings = read_fleet(config)

    async def work(cluster: Cluster) -> FleetStatus:
        return await _status(cluster)

    seen = _with_cluster(settings, address, work)
    if json_lines:
        print_json(seen.model_dump(mode="json"))
        return
    _print_workers(seen)
    say(f"{counted(len(seen.workers), 'worker')}; wanted now: {seen.wanted}")
    say(f"Machines in the cluster: {len(seen.nodes)}, with {_gpus(seen):g} GPUs")
    if not seen.gateway_error:
        say(f"Jobs at the gateway: {seen.waiting} wait, {seen.running} run")
    if seen.down:
        say("The fleet is being taken down: it ends when the last job has.")


@fleet.command(short_help="Have no workers on a machine.")
@click.argument("machine")
@file_option
@address_option
@click.option("--undo", is_flag=True, help="Have workers there again.")
def drain(machine: str, config: Path, address: str, undo: bool) -> None:
    """Have no workers on a machine, until --undo.

    Its workers end once their jobs have, and others start elsewhere if there is room. Then the
    machine can be stopped, changed or replaced. MACHINE is a host's name, an address, or the
    beginning of an id as `fleet status --json` shows it.
    """
    from ..fleet.settings import read_fleet

    settings = read_fleet(config)

    async def work(cluster: Cluster) -> list[str]:
        return (await _asked(cluster, "leave", machine, "undo" if undo else "")).split()

    if not _with_cluster(settings, address, work):
        raise click.UsageError(
            f"The cluster has no machine {machine}. comfy-remote fleet status shows those it has."
        )
    say(f"{machine} gets workers again." if undo else f"{machine} gets no more workers.")


@fleet.command(short_help="End the fleet once its jobs have ended.")
@file_option
@address_option
@click.option("--now", is_flag=True, help="End it at once: jobs that run start again elsewhere.")
@click.option(
    "--wait",
    "patience",
    metavar="SECONDS",
    type=SECONDS,
    default=3600.0,
    show_default=True,
    help="How long to wait for jobs that run.",
)
@click.pass_context
def down(context: click.Context, config: Path, address: str, now: bool, patience: float) -> None:
    """End the fleet once its jobs have ended. The gateway and the Ray cluster stay.

    Exit status: 5 if jobs still run when --wait is over; the fleet ends when they have.
    """
    from ..fleet.settings import read_fleet

    settings = read_fleet(config)

    async def work(cluster: Cluster) -> FleetStatus | None:
        if not cluster.has_head() and not cluster.workers():
            return None
        if not now:
            await _asked(cluster, "go_down")
            left = await _watch_its_end(cluster, patience)
            if left is not None and left.workers:
                return left
        for one in ["head", *cluster.workers()]:
            cluster.end(one)
        cluster.request(0, settings)
        return None

    left = _with_cluster(settings, address, work)
    if left is not None:
        still = counted(len(left.workers), "worker")
        say(f"{still} still at work. The fleet ends when they are done.")
        context.exit(5)
    say("The fleet has ended.")


def _with_cluster(
    settings: FleetSettings, address: str, work: Callable[[Cluster], Awaitable[_Result]]
) -> _Result:
    from ..fleet.cluster import Cluster
    from .interrupt import run_interruptible

    cluster = Cluster.connect(address, settings.namespace)
    try:
        return run_interruptible(_awaited(work(cluster)))
    finally:
        cluster.close()


async def _awaited(work: Awaitable[_Result]) -> _Result:
    return await work


async def _asked(cluster: Cluster, method: str, *arguments: str) -> str:
    """What the head's method gives; Ray may be making it again meanwhile.

    Raises:
        ConfigurationError: There is no fleet, or its head does not answer.
    """
    import asyncio

    from ..errors import ConfigurationError
    from ..fleet.cluster import Unanswered

    deadline = time.monotonic() + _FIRST_LOOK
    while True:
        try:
            return await cluster.ask("head", method, *arguments, patience=_FIRST_LOOK)
        except Unanswered as error:
            if not cluster.has_head():
                raise ConfigurationError(
                    "No fleet for this endpoint runs on the Ray cluster.",
                    advice="Start it with comfy-remote fleet up.",
                ) from error
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"The fleet does not answer: {error}",
                    advice="`ray status` shows the machines; comfy-remote fleet up starts its "
                    "head again.",
                ) from error
        await asyncio.sleep(_LOOK_EVERY)


async def _status(cluster: Cluster) -> FleetStatus:
    from ..fleet.seen import FleetStatus

    return FleetStatus.model_validate_json(await _asked(cluster, "status"))


async def _watch_its_end(cluster: Cluster, patience: float) -> FleetStatus | None:
    """Look until the fleet has ended, or the patience is at its end; ``None``: its head is gone."""
    from ..errors import ConfigurationError

    try:
        return await _watch(cluster, lambda seen: seen.down and not seen.workers, patience)
    except ConfigurationError:
        if cluster.has_head():
            raise
        return None


async def _watch(
    cluster: Cluster, is_done: Callable[[FleetStatus], bool], patience: float
) -> FleetStatus:
    """Look until it is done, or the patience is at its end."""
    import asyncio

    from .progress_line import progress_shown

    deadline = time.monotonic() + patience
    with progress_shown(json_lines=False) as show:
        while True:
            seen = await _status(cluster)
            if is_done(seen) or time.monotonic() > deadline:
                return seen
            show(f"{len(_at_work(seen))} of {len(seen.workers)} workers at work")
            await asyncio.sleep(_LOOK_EVERY)


def _is_up(status: FleetStatus, settings: FleetSettings) -> bool:
    ready = [one for one in _at_work(status) if one.is_current]
    return status.wanted >= settings.workers.min and len(ready) >= max(status.wanted, 0)


def _at_work(status: FleetStatus) -> list[ShownWorker]:
    """Those that the gateway can give jobs."""
    nodes = {one.id for one in status.nodes}
    return [
        one
        for one in status.workers
        if one.state == "working" and one.node in nodes and one.at_gateway in ("idle", "running")
    ]


def _ask_gateway(settings: FleetSettings) -> None:
    """Find out now what is set wrongly, before anything is started."""
    from ..fleet.view import Gateway
    from ..fleet.worker import read_token
    from ..net.tls import trusting
    from ..worker.joined.machine import name_in
    from .interrupt import run_interruptible

    own = settings.gateway
    name_in(read_token(own.worker_token_file, "the worker's token"), None)
    token = None
    if own.token_file is not None:
        token = read_token(own.token_file, "the gateway's token")

    async def look() -> None:
        async with Gateway(own.url, own.endpoint, token, trusting(own.ca_file)) as gateway:
            await gateway.look()

    run_interruptible(look())


def _print_workers(status: FleetStatus) -> None:
    hosts = {one.id: one.host for one in status.nodes}
    if status.workers:
        print_table(
            ("Worker", "Machine", "GPU", "State", "At the gateway"),
            [
                (
                    one.name or one.id,
                    hosts.get(one.node, one.host) if one.placed else "waits for a free GPU",
                    ", ".join(one.gpus),
                    _state(one, status),
                    one.at_gateway,
                )
                for one in status.workers
            ],
        )
    for one in status.workers:
        if one.why:
            say(f"{one.name or one.host}: {one.why}")
    if status.problem:
        say(status.problem)
    if status.gateway_error:
        say(f"The gateway cannot be asked: {status.gateway_error}")


def _state(one: ShownWorker, status: FleetStatus) -> str:
    if not one.placed:
        return ""
    if one.node not in {node.id for node in status.nodes}:
        return "its machine is away"
    return one.state if one.is_current else f"{one.state}, to be replaced"


def _gpus(status: FleetStatus) -> float:
    return sum(one.gpus for one in status.nodes)

"""``comfy-remote deploy runpod``: an endpoint of one's own, planned, made and removed again."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..advice import for_terminal
from ..asking import may_go_on
from ..console import print_json, printable_line, say
from ..options import WORKFLOW, load_typed, lock_option

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ...deploy.memory import GpuMemory
    from ...deploy.runpod.carrying import Deployed
    from ...deploy.runpod.own_target import OwnTarget
    from ...deploy.runpod.plan import Plan, Step
    from ...deploy.runpod.record import DeploymentRecord, Made
    from ...deploy.runpod.there import There
    from ...deploy.runpod.wanted import Wanted
    from ...jobs.starts import LearnedStarts
    from ...ready.lock import Lock

__all__ = ["runpod"]

_USES = ("a few an hour", "nights", "steady")
_DOES = {"make": "make", "change": "change", "leave": "as it is", "remove": "remove"}
_SECRETS_PAGE = "https://console.runpod.io/user/secrets"
_Planner = Callable[["There", "Made | None"], "Plan"]


def _cuda_version(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> str | None:
    if value is not None and not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", value):
        raise click.BadParameter("write it like 12.8.")
    return value


@click.command(short_help="Make an endpoint on RunPod, change it, remove it.")
@click.argument("workflow", metavar="[WORKFLOW]", type=WORKFLOW, required=False)
@lock_option("--lock", "Take what is needed from this lock: the GPU's memory, the disk.")
@click.option(
    "--name",
    metavar="NAME",
    help="What the endpoint and the target are called. [default: the workflow's name, else gpu]",
)
@click.option(
    "--gpu",
    metavar="NAMES",
    help='GPUs, with commas between: "RTX 4090,L40S", H100, or a pool (ADA_24). [default: by the '
    "workflow's models]",
)
@click.option(
    "--volume",
    metavar="GB@DC|ID",
    help="A network volume for models, of so many GB in a data centre (100@EU-RO-1), or the id of "
    "one that you have. It costs money until it is removed.",
)
@click.option("--image", metavar="IMAGE", help="What workers run. [default: our published image]")
@click.option(
    "--registry-login",
    "registry",
    metavar="NAME|ID",
    help="For a private image: the login for its registry, as RunPod's console has it (Settings > "
    "Container Registry Auth).",
)
@click.option(
    "--use",
    type=click.Choice(_USES),
    help="How it will be used: sets idle time, most workers and when one is added. [default: a few "
    "an hour]",
)
@click.option(
    "--max-workers", metavar="N", type=click.IntRange(min=1), help="The most GPUs at a time."
)
@click.option(
    "--min-workers",
    metavar="N",
    type=click.IntRange(min=0),
    help="Active workers: they always run, and are billed all day. [default: 0]",
)
@click.option(
    "--idle",
    metavar="SECONDS",
    type=click.IntRange(1, 3600),
    help="How long a worker without a job waits for the next, and is paid for.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.IntRange(5, 604_800),
    help="How long a job may run. [default: 3600]",
)
@click.option(
    "--disk",
    metavar="GB",
    type=click.IntRange(min=10),
    help="Of a worker's container. [default: 30, and the lock's models if there is no volume]",
)
@click.option(
    "--cuda",
    metavar="VERSION",
    callback=_cuda_version,
    help="The lowest CUDA version of a host. [default: 13.0]",
)
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="NAME=VALUE",
    help="A variable of the workers. May be repeated.",
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME[=SECRET]",
    help="A variable whose value is a secret of RunPod's console, HF_TOKEN for example. May be "
    "repeated.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Only show what would be done.")
@click.option("-y", "--yes", is_flag=True, help="Do it without asking.")
@click.option("--remove", "removes", is_flag=True, help="Remove what was made under that name.")
@click.option(
    "--with-volume", is_flag=True, help="With --remove: its volume, too, with all that is on it."
)
@click.option("--json", "json_lines", is_flag=True, help="Print the plan and the result as JSON.")
def runpod(
    workflow: Path | None,
    lock_file: Path | None,
    name: str | None,
    gpu: str | None,
    volume: str | None,
    image: str | None,
    registry: str | None,
    use: str | None,
    max_workers: int | None,
    min_workers: int | None,
    idle: int | None,
    timeout: int | None,
    disk: int | None,
    cuda: str | None,
    variables: tuple[str, ...],
    secrets: tuple[str, ...],
    plan_only: bool,
    yes: bool,
    removes: bool,
    with_volume: bool,
    json_lines: bool,
) -> None:
    """Make a RunPod endpoint for workflows: shown first, with what it costs, done after a yes.

    The account is looked at first. What is not there is made, and of what is there only what you
    name is changed, so the same command again changes nothing. The endpoint becomes a target of
    that name in your own comfy-remote.toml. Needs RUNPOD_API_KEY, with a key that may change
    endpoints.

    RunPod has no API for secrets: make them in its console, and refer to them with --secret.

    \b
    Examples:
      comfy-remote deploy runpod workflow.json --plan
      comfy-remote deploy runpod workflow.json --name portraits --gpu "RTX 4090,L40S"
      comfy-remote deploy runpod --name portraits --volume 100@EU-RO-1 --use nights
      comfy-remote deploy runpod --name portraits --remove
    """
    from ...config.own_file import name_from
    from ...deploy.runpod.mark import checked_name

    if plan_only and yes:
        raise click.UsageError("--plan changes nothing, so there is nothing to say --yes to.")
    if with_volume and not removes:
        raise click.UsageError("--with-volume goes with --remove.")
    if removes and name is None:
        raise click.UsageError("Say with --name what is to be removed.")
    name = checked_name(name or (name_from(workflow.stem) if workflow is not None else "gpu")[:48])
    lock = _lock(lock_file)
    planner: _Planner
    if removes:
        planner = _removal(name, with_volume=with_volume)
    else:
        from ...deploy.runpod.wanted import USES, Wanted, environment_of, volume_wanted

        wanted = Wanted(
            name,
            gpus=tuple(filter(None, (one.strip() for one in (gpu or "").split(",")))),
            memory=None if gpu else _memory(workflow, lock),
            image=image,
            registry=registry,
            volume=None if volume is None else volume_wanted(volume),
            min_workers=min_workers,
            max_workers=max_workers,
            idle=idle,
            use=next((one for one in USES if one == use), None),
            timeout=timeout,
            cuda=cuda,
            disk=disk,
            env=environment_of(variables, secrets),
            models=sum(one.size or 0 for one in lock.models) if lock is not None else 0,
        )
        planner = _deployment(wanted)
    _plan_and_do(
        planner,
        name,
        workflow=workflow,
        plan_only=plan_only,
        yes=yes,
        removes=removes,
        json_lines=json_lines,
    )


def _plan_and_do(
    planner: _Planner,
    name: str,
    *,
    workflow: Path | None,
    plan_only: bool,
    yes: bool,
    removes: bool,
    json_lines: bool,
) -> None:
    from ...config.folders import home
    from ...deploy.runpod.own_target import forget_target, remember_target
    from ...deploy.runpod.record import DeploymentRecord

    record = DeploymentRecord(home())
    key = _key()
    plan = _planned(planner, key, record, name)
    if not json_lines:
        _print(plan, adds_target=not removes)
    about_image = _about_image(plan)
    if about_image:
        say(about_image)
    starts = None if removes else _starts(name)
    if starts is not None:
        say(for_terminal(starts.sentence(name)))
    elif not removes:
        say(
            "How long a worker takes to start is known once a job has waited for one: it loads the "
            "image, and starts ComfyUI."
        )
    learned = None if starts is None else starts.to_json()
    if plan_only:
        if json_lines:
            print_json({"plan": plan.to_json(), "image": about_image, "starts": learned})
        return
    if not plan.changes:
        say("There is nothing to do.")
    elif not may_go_on(yes):
        return
    done: list[Step] = []
    target = None
    try:
        deployed = _carried_out(planner, plan, key, record, done)
    finally:
        # What is removed has no target, even if the next step fails.
        if removes:
            target = _said(forget_target(name, replace(plan, steps=tuple(done))))
    for note in deployed.notes:
        say(for_terminal(note))
    if not removes:
        target = _said(remember_target(name, deployed))
    if not removes:
        record.finished(name)
    if json_lines:
        print_json(
            {
                "plan": plan.to_json(),
                "image": about_image,
                "starts": learned,
                "target": target,
                "endpoint": deployed.endpoint.id if deployed.endpoint is not None else None,
                "volume": deployed.volume.id if deployed.volume is not None else None,
                "notes": list(deployed.notes),
            }
        )
    if not removes and target is not None:
        _say_how_to_use(target, workflow)


def _lock(lock_file: Path | None) -> Lock | None:
    from ...ready.lock import read_lock

    return None if lock_file is None else read_lock(lock_file)


def _memory(workflow: Path | None, lock: Lock | None) -> GpuMemory | None:
    """What the GPU needs: by the sizes in a lock, else by the names of the workflow's models."""
    from ...deploy.memory import memory_for, memory_for_models

    if lock is not None and lock.models:
        largest = max(lock.models, key=lambda one: one.size or 0)
        if (need := memory_for_models([largest.size or 0], largest.path)) is not None:
            return need
    if workflow is None:
        return None
    from ...workflow.repo_list import without_repo_list
    from ..schemas import api_prompt, completed, found_schemas

    loaded = load_typed(workflow)
    schemas = completed(found_schemas(None, None), loaded)
    return memory_for(without_repo_list(api_prompt(loaded, schemas)), schemas)


def _key() -> SecretStr:
    from ...errors import ConfigurationError
    from ...secrets import secret
    from ...targets.runpod.kind import API_KEY_VARIABLE

    key = secret(API_KEY_VARIABLE, os.environ)
    if key is None:
        raise ConfigurationError(
            f"{API_KEY_VARIABLE} is not set.",
            advice="Make a key that may change endpoints at "
            "https://console.runpod.io/user/settings, and set that variable.",
        )
    return key


def _deployment(wanted: Wanted) -> _Planner:
    from ...deploy.runpod.mark import Mark
    from ...deploy.runpod.plan import plan_deployment

    mark = Mark.new(wanted.name)
    return lambda there, made: plan_deployment(wanted, there, made, mark)


def _removal(name: str, *, with_volume: bool) -> _Planner:
    from ...deploy.runpod.plan import plan_removal

    return lambda there, made: plan_removal(name, there, made, with_volume=with_volume)


def _planned(planner: _Planner, key: SecretStr, record: DeploymentRecord, name: str) -> Plan:
    from ...deploy.runpod.there import look
    from ...targets.runpod.account import RunPodAccount
    from ..interrupt import run_interruptible

    made = record.made(name)

    async def ask() -> There:
        async with RunPodAccount(key, os.environ) as account:
            return await look(account, made)

    return planner(run_interruptible(ask()), made)


def _about_image(plan: Plan) -> str:
    """What its registry says of the image that workers are to run: a sentence, or nothing."""
    from ...deploy.runpod import image
    from ...units import size_text
    from ...wire.runpod_endpoints import EndpointRequest
    from ..interrupt import run_interruptible

    requests = [one.request for one in plan.steps if isinstance(one.request, EndpointRequest)]
    named = next((one.image for one in requests if one.image), None)
    if named is None:
        return ""
    facts = run_interruptible(image.image_facts(named))
    if facts.state == "not public" and any(one.registry for one in requests):
        return f"{named} is not public: RunPod loads it with that login."
    if facts.state == "not public":
        return (
            f"warning: {named} does not exist, or is not public. RunPod cannot load it then, and "
            "jobs would wait for ever. Name the account's login for it with --registry-login, or "
            "another image with --image; docs/containers.md says how to build one."
        )
    if facts.state == "unknown":
        return f"Whether RunPod can load {named} is not known: its registry did not answer."
    if facts.size is None:
        return ""
    return f"The image has {size_text(facts.size)}, which a new worker's host loads first."


def _starts(name: str) -> LearnedStarts | None:
    """How long workers of an endpoint took to start, as jobs have seen it."""
    from ...jobs.record.record import Record
    from ...jobs.starts import learned_starts

    with Record() as record:
        return learned_starts(record, name)


def _said(own: OwnTarget) -> str | None:
    if own.said:
        say(own.said)
    return own.name


def _carried_out(
    planner: _Planner, plan: Plan, key: SecretStr, record: DeploymentRecord, ended: list[Step]
) -> Deployed:
    import asyncio

    from ...deploy.runpod.carrying import carry_out
    from ...targets.runpod.account import RunPodAccount
    from ..interrupt import run_interruptible

    def done(step: Step) -> None:
        ended.append(step)
        if step.does.value != "leave":
            say(f"{step.kind} {step.title}: done")

    async def work() -> Deployed:
        async with RunPodAccount(key, os.environ) as account:
            return await carry_out(account, plan, planner, record, done)

    try:
        return run_interruptible(work())
    except asyncio.CancelledError:
        say(
            "Stopped. What was made so far stays, and is found again: the same command goes on "
            f"from there, and `comfy-remote deploy runpod --name {plan.mark.name} --remove` "
            "removes it."
        )
        raise click.exceptions.Exit(130) from None


def _print(plan: Plan, *, adds_target: bool) -> None:
    for step in plan.steps:
        print(printable_line(f"{_DOES[step.does.value]:9}{step.kind} {step.title}"))
        for fact in [*step.facts, step.cost]:
            if fact:
                print(printable_line(f"{'':9}  {fact}"))
    if adds_target:
        print(printable_line(f"{'':9}the target {plan.mark.name} in your comfy-remote.toml"))
    for note in plan.notes:
        say(for_terminal(note))
    if plan.secrets:
        say(f"Make these secrets first, at {_SECRETS_PAGE}: {', '.join(plan.secrets)}.")
    costs = [step.per_month for step in plan.steps if step.does.value != "remove"]
    if any(cost is None or cost > 0 for cost in costs):
        from ...units import dollars

        known = sum(cost for cost in costs if cost is not None)
        unknown = " and what has no listed price" if None in costs else ""
        say(f"It costs {dollars(known)} a month{unknown}, used or not; runs cost extra.")
    elif adds_target:
        say("It costs nothing while no worker runs.")


def _say_how_to_use(target: str, workflow: Path | None) -> None:
    called = "WORKFLOW" if workflow is None else f'"{workflow}"'
    say(
        f"Bring its models and node packs: comfy-remote sync {called} --on {target}. A run fetches "
        "models that have an address in the workflow by itself."
    )
    say(f"Run it: comfy-remote run {called} --on {target}")
    say("The first run waits until RunPod has started a worker, which loads the image first.")

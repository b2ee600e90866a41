"""``comfy-remote init``: from what its user has to a target that works."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .adding import NewTarget

__all__ = ["init"]

_WAYS = {
    "runpod": "A RunPod key: an endpoint or a pod of that account",
    "comfyui": "A ComfyUI's address: a machine on the LAN, or elsewhere",
    "gateway": "A GPU box of yours: a machine that runs `comfy-remote serve`",
    "modal": "An app on Modal, made by `comfy-remote deploy modal`",
    "comfy": "Comfy Cloud, a deployment of yours there, or another server with Comfy's API",
    "sandbox": "Nothing yet: the sandbox on this machine, to try things (no models, no GPU)",
}


@dataclass(frozen=True, slots=True)
class _Given:
    """What the options say; ``None`` is asked for, where there is a terminal."""

    name: str | None
    endpoint: str | None
    pod: str | None
    address: str | None
    key: str | None


@click.command()
@click.argument("kind", required=False, metavar="[KIND]", type=click.Choice([*_WAYS]))
@click.option("--name", metavar="NAME", help="What to call it, for --on NAME.")
@click.option("--endpoint", metavar="ID", help="runpod: the endpoint. gateway: its id there.")
@click.option("--pod", metavar="ID", help="runpod: a pod instead; auto: whichever runs.")
@click.option(
    "--address",
    metavar="ADDRESS",
    help="comfyui, gateway: where it is. modal: the app's name. comfy: cloud, a deployment's name, "
    "or where it is.",
)
@click.option(
    "--key-stdin", is_flag=True, help="Read the key from standard input (else it is asked for)."
)
@click.option(
    "--ca-file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Certificates to trust for it, besides the system's.",
)
@click.option(
    "--price-per-hour", "price", metavar="DOLLARS", type=click.FloatRange(min=0), help="Of its GPU."
)
@click.option("--default/--no-default", "as_default", default=True, help="Use it by default.")
@click.option("--replace", "replaces", is_flag=True, help="Replace a target of that name.")
@click.option("--test/--no-test", "tests", default=True, help="Check it first.")
def init(
    kind: str | None,
    name: str | None,
    endpoint: str | None,
    pod: str | None,
    address: str | None,
    key_stdin: bool,
    ca_file: Path | None,
    price: float | None,
    as_default: bool,
    replaces: bool,
    tests: bool,
) -> None:
    """Set up where your workflows run: asks what you have, tries it and saves it.

    KIND is runpod, comfyui, gateway, modal, comfy or sandbox. What an option says is not asked for;
    without a terminal nothing is. A key is stored in the system's key ring where there is one
    (pip install keyring), else in a file that only you can read. The target goes into your own
    comfy-remote.toml, never into the current folder's.

    \b
    Examples:
      comfy-remote init
      comfy-remote init comfyui --address 192.168.1.20:8188 --name lan
      comfy-remote init runpod --endpoint abc123xyz --key-stdin < key.txt
      comfy-remote init gateway --address workshop.local:8000 --ca-file cert.pem
    """
    from .adding import add_target, key_from_stdin
    from .console import say

    key = key_from_stdin() if key_stdin else None
    ways = [*_WAYS]
    kind = kind or ways[_chosen("What do you have?", [*_WAYS.values()], "a KIND", called=ways)]
    if kind == "sandbox":
        say("The sandbox needs no setup: it starts with the first run, and costs nothing.")
        say("Try it: comfy-remote run example:collage --on sandbox")
        return
    new = _ASK[kind](_Given(name, endpoint, pod, address, key))
    settings = replace(
        new.settings,
        price_per_hour=price,
        ca_file=None if ca_file is None else str(ca_file.absolute()),
    )
    new = replace(new, settings=settings)
    add_target(new, as_default=as_default, replace=replaces, tests=tests)


def _runpod(given: _Given) -> NewTarget:
    from ..config.target_settings import TargetSettings
    from .adding import NewTarget

    key = given.key or _key_of_account()
    address = f"pod:{given.pod}" if given.pod else f"runpod:{given.endpoint or ''}"
    called = given.name
    if not given.pod and not given.endpoint:
        address, suggested = _of_account(key)
        called = called or suggested
    return NewTarget(called or _name("gpu"), TargetSettings(address), key)


def _key_of_account() -> str | None:
    """The key to be stored; ``None`` if it is set already."""
    from ..secrets import secret
    from ..targets.runpod.kind import API_KEY_VARIABLE
    from .console import say

    if secret(API_KEY_VARIABLE, os.environ) is not None:
        say(f"{API_KEY_VARIABLE} is set: it is used.")
        return None
    return _asked(
        "RunPod's API key (https://console.runpod.io > Settings > API Keys; it is not shown)",
        "--key-stdin",
        hidden=True,
    )


def _of_account(key: str | None) -> tuple[str, str]:
    """An endpoint or a pod of the account, chosen; its address, and a name for it."""
    from ..config.own_file import name_from
    from ..errors import ConfigurationError
    from ..targets.runpod.account_targets import account_targets
    from ..targets.runpod.kind import API_KEY_VARIABLE
    from .console import say
    from .interrupt import run_interruptible

    say("Asking RunPod what the account has …")
    environment = {**os.environ, **({API_KEY_VARIABLE: key} if key else {})}
    found = run_interruptible(account_targets(environment))
    if not found:
        raise ConfigurationError(
            "The account has neither an endpoint nor a running pod.",
            advice="`comfy-remote deploy runpod` makes an endpoint.",
        )
    choices = [f"{one.kind} {one.text}" for one in found]
    chosen = found[_chosen("Which one?", choices, "--endpoint or --pod")]
    return chosen.address, name_from(chosen.name)


def _comfyui(given: _Given) -> NewTarget:
    from ..targets.typed_settings import comfyui_settings
    from .adding import NewTarget

    address = given.address or _asked("Its address (http://192.168.1.20:8188)", "--address")
    name = given.name or _name("lan")
    return NewTarget(name, comfyui_settings(address), given.key)


def _gateway(given: _Given) -> NewTarget:
    from ..targets.opening import needs_key
    from ..targets.typed_settings import gateway_settings
    from .adding import NewTarget

    address = given.address or _asked("Its address (https://box.local:8000)", "--address")
    settings = gateway_settings(address, given.endpoint or "")
    if given.endpoint is None and settings.target == "runpod:local":
        asked = _asked("Its endpoint (what `serve --endpoint` says)", "--endpoint", "local")
        settings = gateway_settings(address, asked)
    name = given.name or _name("box")
    key = given.key
    if key is None and needs_key(settings):
        key = _asked("Its token (what `serve` reads; it is not shown)", "--key-stdin", hidden=True)
    return NewTarget(name, settings, key)


def _modal(given: _Given) -> NewTarget:
    from ..config.own_file import name_from
    from ..config.target_settings import TargetSettings
    from .adding import NewTarget

    app = given.address or _asked("The app's name (`modal app list` shows it)", "--address")
    app = app.removeprefix("modal:")
    return NewTarget(given.name or _name(name_from(app)), TargetSettings(f"modal:{app}"))


def _comfy(given: _Given) -> NewTarget:
    from ..config.own_file import name_from
    from ..targets.kinds import kind_of, secret_variables
    from ..targets.opening import needs_key
    from ..targets.typed_settings import comfy_api_settings
    from .adding import NewTarget
    from .console import say

    question = "Which? cloud, a deployment's name, or a server's address"
    settings = comfy_api_settings(given.address or _asked(question, "--address", "cloud"))
    named = settings.target.partition(":")[2]
    name = given.name or _name("comfy" if "://" in named else name_from(named))
    kind, key = kind_of(settings.target), given.key
    if kind is not None and key is None and needs_key(settings):
        if kind.lacking(settings, os.environ):
            asked = "Its API key (https://platform.comfy.org/profile/api-keys; it is not shown)"
            key = _asked(asked, "--key-stdin", hidden=True)
        else:
            say(f"{secret_variables(settings)[0]} is set: it is used.")
    return NewTarget(name, settings, key)


_ASK = {
    "runpod": _runpod,
    "comfyui": _comfyui,
    "gateway": _gateway,
    "modal": _modal,
    "comfy": _comfy,
}


def _name(default: str) -> str:
    return _asked("What shall it be called?", "--name", default)


def _asked(question: str, option: str, default: str | None = None, *, hidden: bool = False) -> str:
    """An answer from the terminal.

    Raises:
        ConfigurationError: There is none, and no default.
    """
    if not _can_ask():
        if default is not None:
            return default
        raise _nobody_there(option)
    return str(click.prompt(question, default=default, hide_input=hidden, err=True)).strip()


def _chosen(
    question: str, choices: Sequence[str], option: str, *, called: Sequence[str] = ()
) -> int:
    """The index of the choice that is made at the terminal, by its number or its name."""
    from .console import say

    if not _can_ask():
        raise _nobody_there(option)
    for number, choice in enumerate(choices, start=1):
        say(f"  {number}  {choice}")

    def index(typed: str) -> int:
        word = typed.strip().lower()
        if word in called:
            return called.index(word)
        if word.isascii() and word.isdecimal() and 1 <= int(word) <= len(choices):
            return int(word) - 1
        names = f", or one of {', '.join(called)}" if called else ""
        raise click.UsageError(f"type a number from 1 to {len(choices)}{names}.")

    return int(click.prompt(question, value_proc=index, default="1", err=True))


def _can_ask() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _nobody_there(option: str) -> Exception:
    from ..errors import ConfigurationError

    return ConfigurationError(
        "There is no terminal, so nothing is asked.",
        advice=f"Give {option}. `comfy-remote init --help` lists all options.",
    )

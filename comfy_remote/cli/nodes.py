"""``comfy-remote nodes``: the node packs that `sync` has installed on a target, and a way back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ..units import ago_text
from .asking import can_ask, may_go_on
from .console import print_json, say
from .on_target import on_target
from .options import json_option, target_option
from .progress_line import progress_shown

if TYPE_CHECKING:
    from ..wire.nodes import NodesAnswer

__all__ = ["nodes"]

_on_option = target_option("The target. Default: the configured one; see `targets`.")


@click.group(no_args_is_help=True)
def nodes() -> None:
    """List the node packs that `sync` has installed on a target, and undo the last installation."""


@nodes.command("list")
@_on_option
@json_option
def list_nodes(on: str | None, json_lines: bool) -> None:
    """List the node packs that `sync` has installed there.

    Packs that are in the image, or that somebody has put there by hand, are not listed. On an
    endpoint without a running worker, this starts one.

    \b
    Example:
      comfy-remote nodes list --on gpu
    """
    from ..targets.nodes import list_packs

    answer = on_target(on, list_packs)
    if json_lines:
        print_json(answer.model_dump(mode="json"))
    else:
        _print(answer, on)


@nodes.command(short_help="Undo the last installation of node packs.")
@_on_option
@click.option("-y", "--yes", is_flag=True, help="Do it without asking.")
@json_option
def rollback(on: str | None, yes: bool, json_lines: bool) -> None:
    """Go back to the node packs that were there before the last installation by `sync`.

    ComfyUI starts again there before its next job. Nothing is downloaded; the newer packs are
    removed.

    \b
    Example:
      comfy-remote nodes rollback --on gpu
    """
    from ..targets.nodes import list_packs, roll_back_packs

    if not yes and can_ask():
        before = on_target(on, list_packs)
        _print(before, on)
        if not before.can_go_back:
            say("There is nothing to go back to.")
            return
        say("ComfyUI there would start without them, with the packs that were there before.")
    if not may_go_on(yes, look=f"`{_command('list', on)}` to look"):
        return
    with progress_shown(json_lines) as show:
        answer = on_target(on, lambda target: roll_back_packs(target, show))
    if json_lines:
        print_json(answer.model_dump(mode="json"))
    else:
        _print(answer, on)


def _command(name: str, on: str | None) -> str:
    return f"comfy-remote nodes {name}" + (f" --on {on}" if on else "")


def _print(answer: NodesAnswer, on: str | None) -> None:
    from .console import print_table

    if answer.packs:
        rows = [
            (pack.registry_id or pack.name, pack.version or "", pack.commit or "", pack.url or "")
            for pack in answer.packs
        ]
        print_table(("Pack", "Version", "Commit", "Repository"), rows)
    else:
        say("sync has installed no node packs there.")
    if answer.made is not None:
        by = f" by {answer.made_by}" if answer.made_by else ""
        say(f"Installed {ago_text(time.time() - answer.made)}{by}.")
    if answer.can_go_back:
        say(f"To go back to those before: {_command('rollback', on)}")
    for note in answer.notes:
        say(note)

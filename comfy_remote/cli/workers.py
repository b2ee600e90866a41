"""``comfy-remote workers``: says which workers may join a gateway on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import print_json, print_table, say
from .options import endpoint_option, json_option

if TYPE_CHECKING:
    from ..errors import ConfigurationError
    from ..gateway.worker_list import WorkerNotes
    from ..gateway.worker_states import WorkerRow, WorkerStates

__all__ = ["workers"]


@click.group()
def workers() -> None:
    """Say which workers may join a gateway here.

    It is the gateway that comfy-remote serve runs on this machine for you, now or later. It goes
    by what is said here within a second.

    \b
    Examples:
      comfy-remote workers add attic -o attic.token
      comfy-remote workers list
    """


@workers.command()
@click.argument("name")
@endpoint_option
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write the token there, readable for you only. Default: NAME.token.",
)
def add(name: str, endpoint: str, output: Path | None) -> None:
    """Make a token for a worker.

    Its file goes to that machine. Of the token itself, nothing is stored here.
    """
    from ..errors import ConfigurationError
    from ..gateway.tokens import new_token, sha256_of_token
    from ..gateway.worker_list import WorkerList
    from ..secrets import SECRETS

    token = new_token(name)
    SECRETS.add("the worker's token", token)
    file = output or Path(f"{name}.token")
    with WorkerList.of(_folder(endpoint)) as listed:
        listed.add(name, sha256_of_token(token))
        try:
            with open(file, "x", encoding="utf-8", opener=_private) as opened:
                opened.write(f"{token}\n")
        except OSError as error:  # then nothing was added
            raise ConfigurationError(
                f"The token cannot be written to {file}: {error.strerror or error}.",
                advice="Name another file with -o.",
            ) from error
    say(f"The token of {name} is in {file}. Take it to that machine, and start there:")
    # On one line, which each shell takes: that machine may have another than this one.
    say(
        f"  comfy-remote worker --join https://THIS-MACHINE:8000 --endpoint {endpoint} "
        f"--token-file {file.name}"
    )
    say("If serve has a certificate of its own (--certfile), take that file there, too: --ca-file.")


@workers.command("list", short_help="List the workers, and what they run.")
@endpoint_option
@json_option
def list_workers(endpoint: str, json_lines: bool) -> None:
    """List the workers: their state, what they run, when they were last seen."""
    from ..gateway.schema import DATABASE
    from ..gateway.worker_list import WorkerList, WorkerNotes
    from ..gateway.worker_states import WorkerStates

    folder = _folder(endpoint)
    notes = WorkerNotes()
    if (folder / DATABASE).exists():
        with WorkerList.of(folder) as listed:
            notes = listed.notes()
    states = WorkerStates.read(folder)
    runs = states is not None and states.is_current()
    rows = _rows(notes, states, runs=runs)
    if json_lines:
        for row in rows:
            print_json(row.model_dump())
        return
    if rows:
        print_table(
            ("Name", "State", "Runs", "Last seen (UTC)", "Has"),
            [
                (row.name, row.state, ", ".join(row.jobs), _short_time(row.seen_at), row.about)
                for row in rows
            ],
        )
    else:
        say(f"There are no workers. Add one: comfy-remote workers add NAME --endpoint {endpoint}")
    if not runs:
        say(f"No gateway runs here for endpoint {endpoint}.")


@workers.command()
@click.argument("name")
@endpoint_option
@click.option("--undo", is_flag=True, help="Give it jobs again.")
def drain(name: str, endpoint: str, undo: bool) -> None:
    """Give a worker no more jobs. The one that it has goes on."""
    from ..gateway.worker_list import WorkerList

    with WorkerList.of(_folder_of_one(name, endpoint)) as listed:
        _check_known(name, listed.notes(), endpoint)
        if undo:
            listed.take_back(name, "drain")
        else:
            listed.say(name, "drain")
    say(f"{name} gets jobs again." if undo else f"{name} gets no more jobs.")


@workers.command()
@click.argument("name")
@endpoint_option
def gone(name: str, endpoint: str) -> None:
    """Say that a worker will not come back.

    Its jobs are started once more elsewhere, or fail where they may not be. Only for a machine
    that is surely dead: one that is merely silent may still be computing.
    """
    from ..gateway.worker_list import WorkerList

    with WorkerList.of(_folder_of_one(name, endpoint)) as listed:
        _check_known(name, listed.notes(), endpoint)
        listed.say(name, "gone")
    say(f"{name} is gone: its jobs go to others.")


@workers.command(short_help="Remove a worker, and refuse its token.")
@click.argument("name")
@endpoint_option
def remove(name: str, endpoint: str) -> None:
    """Remove a worker: its token is not taken any more, and its jobs go to others."""
    from ..gateway.worker_list import WorkerList

    with WorkerList.of(_folder_of_one(name, endpoint)) as listed:
        if not listed.remove(name):
            raise _unknown(name, endpoint)
    say(f"{name} is removed.")


def _short_time(when: str) -> str:
    return when[:19].replace("T", " ")  # the column says that it is UTC


def _rows(notes: WorkerNotes, states: WorkerStates | None, *, runs: bool) -> list[WorkerRow]:
    from ..gateway.worker_states import WorkerRow

    rows = states.workers if states is not None else []
    if not runs:
        rows = [row.model_copy(update={"state": "unknown"}) for row in rows]
    joined = {row.name.partition(".")[0] for row in rows}
    for token in notes.tokens:
        if token.name not in joined:
            draining = ", draining" if token.name in notes.draining else ""
            rows = [*rows, WorkerRow(name=token.name, state=f"not connected{draining}")]
    return sorted(rows, key=lambda row: row.name)


def _check_known(name: str, notes: WorkerNotes, endpoint: str) -> None:
    from ..gateway.tokens import name_of_token

    if name_of_token(name) not in {token.name for token in notes.tokens}:
        raise _unknown(name, endpoint)


def _unknown(name: str, endpoint: str) -> ConfigurationError:
    from ..errors import ConfigurationError
    from ..gateway.worker_states import WorkerStates

    states = WorkerStates.read(_folder(endpoint))
    if states is not None and any(one.name == name for one in states.workers):
        return ConfigurationError(
            f"{name} is one of the gateway's own workers, not one that has joined.",
            advice="The gateway's page can drain it: open its address in a browser.",
        )
    return ConfigurationError(
        f"The endpoint {endpoint} has no worker {name}.",
        advice=f"comfy-remote workers list --endpoint {endpoint} shows those that there are.",
    )


def _folder_of_one(name: str, endpoint: str) -> Path:
    """The folder of a gateway that may have that worker; nothing is made for one that has none."""
    from ..gateway.schema import DATABASE
    from ..wire.joined import WORKER_NAME

    folder = _folder(endpoint)
    if not WORKER_NAME.fullmatch(name) or not (folder / DATABASE).exists():
        raise _unknown(name, endpoint)
    return folder


def _folder(endpoint: str) -> Path:
    from ..config.folders import home
    from ..wire.runpod import check_endpoint_id

    check_endpoint_id(endpoint)
    return home() / "gateway" / endpoint


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

"""``comfy-remote --help-json``: what programs read about the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest

from comfy_remote.cli.help_json import EXIT_STATUSES
from comfy_remote.cli.main import cli
from comfy_remote.cli.run_remote import run_remote
from comfy_remote.version import __version__


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """As the command prints it."""
    code = "from comfy_remote.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help-json"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert not done.stderr
    return json.loads(done.stdout)


def option(document: dict[str, Any], command: str, flag: str) -> dict[str, Any]:
    [found] = [one for one in document["commands"] if one["name"] == command]
    [option] = [one for one in found["options"] if flag in one["flags"] + one["off_flags"]]
    return option


def test_it_says_what_it_is_of(document: dict[str, Any]) -> None:
    assert (document["version"], document["comfy_remote"]) == (1, __version__)
    assert document["exit_statuses"] == {str(s): words for s, words in EXIT_STATUSES.items()}


def test_every_command_and_every_flag_is_there(document: dict[str, Any]) -> None:
    def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
        yield name, command
        if isinstance(command, click.Group):
            for below in command.list_commands(click.Context(command)):
                found = command.get_command(click.Context(command), below)
                assert found is not None
                yield from commands(found, f"{name} {below}")

    every = [*commands(cli, "comfy-remote"), *commands(run_remote, "comfy-run-remote")]
    assert [one["name"] for one in document["commands"]] == [name for name, _ in every]
    for (name, command), one in zip(every, document["commands"], strict=True):
        flags = {flag for o in one["options"] for flag in o["flags"] + o["off_flags"]}
        for param in command.params:
            if isinstance(param, click.Option):
                assert flags >= {*param.opts, *param.secondary_opts}, name
        assert "--help" in flags
        assert one["help"], name


def test_types_defaults_and_choices(document: dict[str, Any]) -> None:
    run = "comfy-remote run"
    timeout = option(document, run, "--timeout")
    assert (timeout["type"], timeout["min"], timeout["default"]) == ("number", 0, None)
    assert timeout["metavar"] == "SECONDS"
    output = option(document, run, "--output")
    assert (output["type"], output["default"], output["flags"]) == (
        "path",
        "output",
        ["-o", "--output"],
    )
    preview = option(document, run, "--no-preview")
    assert (preview["flags"], preview["off_flags"]) == (["--preview"], ["--no-preview"])
    assert (preview["takes_value"], preview["type"], preview["default"]) == (False, "boolean", True)
    no_wait = option(document, run, "--no-wait")
    assert (no_wait["takes_value"], no_wait["default"]) == (False, False)
    assert option(document, run, "--set")["repeatable"]
    width = option(document, run, "--width")
    assert (width["type"], width["min"], width["max"]) == ("integer", 1, None)
    state = option(document, "comfy-remote jobs list", "--state")
    assert state["type"] == "choice" and "failed" in state["choices"]
    [list_jobs] = [one for one in document["commands"] if one["name"] == "comfy-remote jobs"]
    assert list_jobs["group"]
    [command] = [one for one in document["commands"] if one["name"] == run]
    assert command["usage"] == "comfy-remote run [OPTIONS] WORKFLOW"
    [workflow] = command["arguments"]
    assert (workflow["metavar"], workflow["required"], workflow["type"]) == (
        "WORKFLOW",
        True,
        "path",
    )
    assert "Examples:" in command["help"] and "\b" not in command["help"]

"""A target that is tried, then written into the owner's file: for `targets add` and `init`."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from ..config.own_file import OwnFile
from ..config.settings import Configuration
from ..config.stored_secrets import check_not_set_elsewhere, store_secret
from ..config.target_settings import TargetSettings
from ..errors import ConfigurationError
from ..targets.kinds import kind_of
from ..targets.opening import refuse_secret_elsewhere
from ..targets.typed_settings import settings_of_address, with_own_key
from ..text_file import NotText, text_of
from .console import print_json, say
from .interrupt import run_interruptible

if TYPE_CHECKING:
    from ..jobs.doctor import Finding

__all__ = ["NewTarget", "add_target", "key_from_stdin"]

_LONGEST_LINE = 65_536  # bytes


@dataclass(frozen=True, slots=True)
class NewTarget:
    """What is to be added.

    Attributes:
        key: To be stored under the variable that the settings name, or of its kind, or of its
            server; ``None`` if it is set already.
    """

    name: str
    settings: TargetSettings
    key: str | None = field(default=None, repr=False)

    def variable(self) -> str:
        """The variable of its key.

        Raises:
            ConfigurationError: It has none: there has to be a name for it.
        """
        kind = kind_of(self.settings.target)
        variable = None if kind is None else kind.key_variable(self.settings)
        if variable is None:
            raise ConfigurationError(
                f"{self.settings.target} has no variable for a key.",
                advice="Name one with --key-env, for example --key-env COMFYUI_KEY.",
            )
        return variable


def add_target(
    new: NewTarget, *, as_default: bool, replace: bool, tests: bool, json_lines: bool = False
) -> None:
    """Check the target, store its key, and write it into the owner's file.

    Exits with the status of its first problem, and then nothing has been written.

    Raises:
        ConfigurationError: It cannot be added.
    """
    address = settings_of_address(new.settings.target).target
    settings = dataclasses.replace(new.settings, target=address)
    new = NewTarget(new.name, settings if new.key is None else with_own_key(settings), new.key)
    own = OwnFile()
    _put(new, own, as_default=as_default, replace=replace)
    own.check()  # before the key is stored
    if new.key is not None:
        check_not_set_elsewhere(new.variable(), new.key)
    if tests and (status := _tested(new, own)):
        say("Nothing was written. With --no-test, it is added all the same.")
        raise click.exceptions.Exit(status)
    if new.key is not None:
        refuse_secret_elsewhere(new.name, new.settings, os.environ)
        where = store_secret(new.variable(), new.key)
        say(f"{new.variable()} is in {where}.")
    with OwnFile.changing() as own:  # as it is by now: a test takes seconds
        _put(new, own, as_default=as_default, replace=replace)
    say(f"Added {new.name} to {own.path}.")
    usual = Configuration.load().usual()[0]
    if json_lines:
        print_json(
            {
                "name": new.name,
                "target": new.settings.target,
                "file": str(own.path),
                "default": usual == new.name,
            }
        )
    on = "" if usual == new.name else f" --on {new.name}"
    say(f"Try it: comfy-remote run example:collage{on}")


def key_from_stdin() -> str:
    """The key on the first line of standard input, in whatever encoding a shell writes.

    Raises:
        ConfigurationError: There is none.
    """
    line = sys.stdin.buffer.readline(_LONGEST_LINE)
    if len(line) % 2 and b"\0" in line:
        line += sys.stdin.buffer.read(1)  # the other half of a line break in UTF-16
    try:
        key = text_of(line).strip()
    except NotText:
        key = ""
    if not key:
        raise ConfigurationError(
            "There is no key on standard input.", advice="Put it there, alone on a line."
        )
    return key


def _put(new: NewTarget, own: OwnFile, *, as_default: bool, replace: bool) -> None:
    if new.name in own.targets and not replace:
        raise ConfigurationError(
            f"{own.path} has a target {new.name!r} already.",
            advice="Choose another name, or replace it with --replace.",
        )
    own.put(new.name, new.settings)
    if as_default:
        own.make_default(new.name)


def _tested(new: NewTarget, own: OwnFile) -> int:
    """Look at all between here and the target; the exit status of the first problem."""
    from ..jobs.doctor import examine
    from .doctor import show_finding

    environment: Mapping[str, str] = os.environ
    if new.key is not None:
        environment = {**os.environ, new.variable(): new.key}
    configuration = Configuration.load().with_own(new.name, new.settings, own.path)
    problems: list[Finding] = []

    async def look() -> None:
        async for finding in examine(
            new.name, environment=environment, configuration=configuration
        ):
            show_finding(finding, stderr=True)
            if finding.status == "problem":
                problems.append(finding)

    run_interruptible(look())
    return problems[0].exit_status or 1 if problems else 0

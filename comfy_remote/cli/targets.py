"""``comfy-remote targets``: what is configured, and where."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from .options import json_option

__all__ = ["targets"]


@click.command()
@json_option
def targets(json_lines: bool) -> None:
    """List the configured targets.

    Those that comfy-remote.toml names, the file they were read from, and whether their keys are
    set. What a folder's file names and you have not trusted (see comfy-remote trust) is marked.
    """
    from ..config.folders import CONFIG_NAME
    from ..config.settings import DEFAULT_TARGET, Configuration
    from ..config.target_settings import TargetSettings
    from ..secrets import secret
    from ..targets.kinds import forms, kind_of, secret_variables
    from .console import print_json, say

    configuration = Configuration.load()
    untrusted = configuration.untrusted
    refused = untrusted is not None and untrusted.default is not None
    chosen = None if refused else configuration.choose(None)

    def described(
        name: str, settings: TargetSettings, path: Path, *, trusted: bool
    ) -> dict[str, Any]:
        kind = kind_of(settings.target)
        variable = settings.key_env if kind is None else kind.key_variable(settings)
        variables = secret_variables(settings) if trusted else ()  # not even looked for
        known = {one: secret(one, os.environ) is not None for one in variables}
        return {
            "name": name,
            "target": settings.target,
            "default": trusted and name == chosen,
            "key_env": variable,
            "key_set": known.get(variable) if variable else None,
            "secrets": known,
            "file": str(path),
            "trusted": trusted,
        }

    rows = [
        described(name, settings, configuration.origins[name], trusted=True)
        for name, settings in configuration.targets.items()
    ]
    if untrusted is not None:
        rows += [
            described(name, settings, untrusted.path, trusted=False)
            for name, settings in untrusted.targets.items()
        ]
    if json_lines:
        for row in rows:
            print_json(row)
        return
    if not rows:
        say(
            f"No targets are configured: there is no {CONFIG_NAME} in this folder, above it, or "
            "in the user's configuration folder."
        )
    else:
        from rich.table import Column

        from .console import print_table

        columns = [
            Column(title, overflow="fold") for title in ("Name", "Target", "Key", "Read from")
        ]
        print_table(
            columns,
            [
                (
                    f"{row['name']}{' (default)' if row['default'] else ''}",
                    str(row["target"]),
                    "\n".join(
                        f"{one} {'is set' if known else 'is not set'}"
                        for one, known in row["secrets"].items()
                    )
                    or ("none" if row["trusted"] else "not looked for"),
                    f"{row['file']}{'' if row['trusted'] else ' (not trusted yet)'}",
                )
                for row in rows
            ],
        )
    if untrusted is not None:
        say(untrusted.sentence())
    if chosen is None:
        say("Without --on, nothing runs until you have trusted the default target.")
    else:
        say(f"Without --on, {'the sandbox' if chosen == DEFAULT_TARGET else chosen} is used.")
    say(f"Any of these works, too: {forms()}.")

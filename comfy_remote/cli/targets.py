"""``comfy-remote targets``: what is configured, and where."""

from __future__ import annotations

import os
from typing import Any

import click

from .options import json_option

__all__ = ["targets"]


@click.command()
@json_option
def targets(json_lines: bool) -> None:
    """List the configured targets.

    Those that comfy-remote.toml names, the file they were read from, and whether their keys are
    set.
    """
    import json

    from ..config.secrets import secret
    from ..targets.config import CONFIG_NAME, Configuration
    from .console import say

    configuration = Configuration.load()
    chosen = configuration.choose(None)
    rows: list[dict[str, Any]] = []
    for name, settings in configuration.targets.items():
        variable = settings.key_variable
        rows.append(
            {
                "name": name,
                "target": settings.target,
                "default": name == chosen,
                "key_env": variable,
                "key_set": secret(variable, os.environ) is not None if variable else None,
                "secrets": {
                    one: secret(one, os.environ) is not None for one in settings.secret_variables
                },
                "file": str(configuration.origins[name]),
            }
        )
    if json_lines:
        for row in rows:
            print(json.dumps(row))
        return
    if not rows:
        say(
            f"No targets are configured: there is no {CONFIG_NAME} in this folder, above it, or "
            "in the user's configuration folder."
        )
    else:
        from rich.table import Column

        from .table import print_table

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
                    or "none",
                    str(row["file"]),
                )
                for row in rows
            ],
        )
    say(
        f"Without --on, {'the sandbox' if chosen == 'sandbox' else chosen} is used. Any of these "
        "works, too: runpod:ENDPOINT, modal:APP, pod:ID, pod:auto, http://HOST:8188, sandbox."
    )

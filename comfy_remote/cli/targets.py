"""``comfy-remote targets``: what is configured, and where."""

from __future__ import annotations

import os
import sys

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

    from ..targets.config import CONFIG_NAME, Configuration
    from .console import printable, say

    configuration = Configuration.load()
    chosen = configuration.choose(None)
    rows = []
    for name, settings in configuration.targets.items():
        variable = settings.key_env
        if variable is None and settings.target.startswith("runpod:"):
            variable = "RUNPOD_API_KEY"
        rows.append(
            {
                "name": name,
                "target": settings.target,
                "default": name == chosen,
                "key_env": variable,
                "key_set": bool(os.environ.get(variable, "").strip()) if variable else None,
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
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(highlight=False) if sys.stdout.isatty() else Console(width=200)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for title in ("Name", "Target", "Key", "Read from"):
            table.add_column(title, overflow="fold")
        for row in rows:
            key = f"{row['key_env']} {'is set' if row['key_set'] else 'is not set'}"
            table.add_row(
                Text(printable(f"{row['name']}{' (default)' if row['default'] else ''}")),
                Text(printable(str(row["target"]))),
                Text(printable(key) if row["key_env"] else "none"),
                Text(printable(str(row["file"]))),
            )
        console.print(table)
    say(
        f"Without --on, {'the sandbox' if chosen == 'sandbox' else chosen} is used. Any of these "
        "works, too: runpod:ENDPOINT, http://HOST:8188, sandbox."
    )

"""``comfy-remote doctor``: checks everything between here and the GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import USUAL_TARGET, WORKFLOW, json_option, target_option

if TYPE_CHECKING:
    from ..jobs.doctor import Finding

__all__ = ["doctor", "show_finding"]

_MARKS = {"ok": "✓", "warning": "!", "problem": "✗", "skipped": "-"}
_PLAIN_MARKS = {"ok": "ok", "warning": "warning", "problem": "PROBLEM", "skipped": "skipped"}
_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}


@click.command()
@click.argument("workflow", metavar="[WORKFLOW]", required=False, type=WORKFLOW)
@target_option(f"What to check: an address, or a name from comfy-remote.toml. {USUAL_TARGET}")
@json_option
@click.pass_context
def doctor(context: click.Context, workflow: Path | None, on: str | None, json_lines: bool) -> None:
    """Check everything between here and the GPU, and say what to fix.

    It checks settings, keys (whether they are set; their values are never shown), the pod or
    endpoint, the connection, ComfyUI's version and device, and whether it has what WORKFLOW needs.
    WORKFLOW is not run. Exit status: that of the first problem (2 settings, 3 connection,
    4 workflow), else 0.

    \b
    Examples:
      comfy-remote doctor --on pod:auto
      comfy-remote doctor workflow.json --on runpod:abc123xyz
      comfy-remote doctor --json | jq 'select(.status == "problem")'
    """
    from ..jobs.doctor import examine
    from .console import print_json
    from .interrupt import run_interruptible

    first = 0

    async def look() -> None:
        nonlocal first
        async for finding in examine(on, workflow):
            if finding.status == "problem":
                first = first or finding.exit_status
            if json_lines:
                print_json(finding.to_json())
            else:
                show_finding(finding)

    run_interruptible(look())
    context.exit(first)


def show_finding(finding: Finding, *, stderr: bool = False) -> None:
    """A line, and what to do."""
    from rich.console import Console
    from rich.text import Text

    from .console import printable_line, wrapped

    console = Console(highlight=False, soft_wrap=True, stderr=stderr)
    columns = console.width if console.is_terminal else 10_000
    known = console.is_terminal and console.encoding.lower().startswith("utf")
    mark = _MARKS[finding.status] if known else f"{_PLAIN_MARKS[finding.status]:<8}"
    indent = len(mark) + 15
    console.print(
        Text.assemble(
            (f"{mark} ", _STYLES[finding.status]),
            (f"{finding.check:<13} ", "dim"),
            wrapped(printable_line(finding.message), indent, columns).lstrip(),
        )
    )
    if finding.advice and finding.status != "ok":
        console.print(Text(wrapped(printable_line(finding.advice), indent, columns), "dim"))
    sys.stdout.flush()

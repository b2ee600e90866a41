"""A batch at a terminal: how far it is, what runs, and what went wrong, redrawn in place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ...batch.events import BatchEvent, GoesOn, Noted, RunEnded, Stopped, Waits
from ...units import size_text
from ..console import printable_line
from ..live import choose_beside
from .reporter import PlainBatchReporter, Planned
from .tally import Running, values_text

if TYPE_CHECKING:
    from typing_extensions import Self

    from ...batch.manifest import RunLine
    from ...errors import ComfyRemoteError
    from ...jobs.record import BatchEntry
    from .tally import Tally

__all__ = ["LiveBatchReporter"]

_REFRESHES_PER_SECOND = 4
_MOST_SHOWN = 12  # runs under way


class LiveBatchReporter(PlainBatchReporter):
    """A bar for the whole, a line for each run under way, and a line that stays for each failure.

    Everything goes to standard error. Where standard output is no terminal, it gets the outputs'
    paths.

    Args:
        console: Standard error by default.
    """

    def __init__(self, *, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(stderr=True, highlight=False)
        unicode = self._console.encoding.lower().startswith("utf")
        self._dot = "·" if unicode else "-"
        # Where it cannot be shown, an ellipsis becomes six characters, and the line too long.
        self._overflow: OverflowMethod = "ellipsis" if unicode else "crop"
        self._cut = "…" if unicode else "~"
        self._spinner = Spinner("dots" if unicode else "line", style="cyan")
        self._status = "Reading the workflow"
        self._live = Live(
            console=self._console,
            get_renderable=self._view,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop()

    def note(self, message: str) -> None:
        """The line above the display."""
        self._console.print(Text(printable_line(message), "dim"), soft_wrap=True)

    def waiting(self) -> None:
        """Nothing: the display moves."""

    def connecting(self, target: str) -> None:
        self._status = f"Asking {printable_line(target)}"

    def planned(self, plan: Planned) -> None:
        head, *rest = map(printable_line, plan.lines)
        self._console.print(Text(head, "bold"), soft_wrap=True)
        for line in rest:
            self._console.print(Text(line), soft_wrap=True)

    def reading(self, files: int) -> None:
        self._status = f"Reading the input files ({files})"

    def begins(self, tally: Tally) -> None:
        super().begins(tally)
        self._status = "Running"

    def in_background(self, entry: BatchEntry) -> None:
        self._stop()
        super().in_background(entry)

    def happened(self, event: BatchEvent) -> None:
        match event:
            case RunEnded(line):
                if not sys.stdout.isatty():
                    self._print_paths(line)
                if line.state != "succeeded":
                    self._print(self._failure(line), "red" if line.state == "failed" else "yellow")
                for problem in line.problems:
                    self._print(f"{line.run}: {problem}", "yellow")
            case Waits(why):
                self._status = printable_line(f"Waiting: {why}")
            case GoesOn():
                self._status = "Running"
            case Noted(message, warning):
                self._print(message, "yellow" if warning else "dim")

    def stopped(self, stopped: Stopped, failed: Sequence[RunLine]) -> None:
        self._stop()
        for line in self._closing(stopped, failed):
            self._print(line, "")

    def choose(self, question: str, options: Sequence[str]) -> int | None:
        return choose_beside(self._live, question, options)

    def failed(self, error: ComfyRemoteError, job_id: str | None, *, resumable: bool) -> None:
        self._stop()
        super().failed(error, job_id, resumable=resumable)

    def _print(self, words: str, style: str) -> None:
        self._console.print(Text(printable_line(words), style), soft_wrap=True)

    def _stop(self) -> None:
        if self._live.is_started:
            self._live.stop()

    def _view(self) -> RenderableType:
        lines: list[RenderableType] = [self._head()]
        if self._tally is not None:
            runs = list(self._tally.running.values())
            # A display higher than the screen could not be redrawn.
            shown = max(1, min(_MOST_SHOWN, self._console.height - 4))
            lines += [self._run(run) for run in runs[:shown]]
            if len(runs) > shown:
                lines.append(Text(f"  and {len(runs) - shown} more under way", "dim"))
        return Group(*lines)

    def _head(self) -> Table:
        """``⠹ Running ━━━━━━━━━━╸━━━━━━━ 12 of 48, 1 failed, …``."""
        row = Table.grid(padding=(0, 1), expand=False)
        status = Text(self._status, "bold", overflow=self._overflow, no_wrap=True)
        tally = self._tally
        if tally is None:
            row.add_row(self._spinner, status)
            return row
        if not tally.left:
            status = Text("Making the sheet", "bold", no_wrap=True)
        figures = tally.sentence().replace(", ", f" {self._dot} ")
        bar = ProgressBar(
            total=tally.count,
            completed=tally.count - tally.left + sum(map(_share, tally.running.values())),
            width=max(8, min(24, self._console.width - len(figures) - 16)),
        )
        row.add_row(
            self._spinner, status, bar, Text(figures, no_wrap=True, overflow=self._overflow)
        )
        return row

    def _run(self, run: Running) -> Table:
        """``  0007 seed=7, cfg=5.5 ━━━━━━╸━━━━ step 12/20``."""
        row = Table.grid(padding=(0, 1), expand=False)
        bar = ProgressBar(total=1.0, completed=_share(run), width=12)
        row.add_row(
            Text(f"  {run.row:04}", "cyan", no_wrap=True),
            bar,
            Text(_what(run), no_wrap=True),
            Text(
                values_text(run.values).replace("…", self._cut),
                "dim",
                overflow=self._overflow,
                no_wrap=True,
            ),
        )
        return row


def _share(run: Running) -> float:
    return 0.0 if run.progress is None else run.progress.fraction


def _what(run: Running) -> str:
    """What a run does, in a few words."""
    if run.received is not None:
        return f"fetching, {size_text(run.received)}"
    if run.sent is not None and run.sent[0] < run.sent[1]:
        return f"sending, {size_text(run.sent[0])} of {size_text(run.sent[1])}"
    progress = run.progress
    if progress is None:
        return "waiting"
    if progress.step is not None and progress.steps:
        return f"step {progress.step:g}/{progress.steps:g}"
    return f"{progress.nodes_done}/{progress.nodes_total} nodes"

"""A job's progress at a terminal: a display that redraws itself."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ..errors import ComfyRemoteError
from ..events import Event, Finished, Log, Phase, Preview, Progress, Queued, Started
from ..jobs.record import SavedOutput
from ..outputs import OutputProblem, RemoteOutput
from ..units import counted, seconds_text, size_text
from ..workflow.prompt import Prompt
from .console import fits, printable_line
from .pictures import Graphics, Picture, graphics_of, load_picture, remove_preview
from .reporter import Outputs, PlainReporter, incomplete, node_label, print_places, relative

if TYPE_CHECKING:
    from typing_extensions import Self

    from .dry_run import DryRun

__all__ = ["LiveReporter", "choose_beside"]

_REFRESHES_PER_SECOND = 8
_PREVIEW_SIZE = {"columns": 36, "rows": 12}
_MOST_LISTED = 20  # outputs, for people; a pipe gets all
_RESULT_SIZE = {"columns": 56, "rows": 18}


class LiveReporter(PlainReporter):
    """A bar, the running node, its steps, a preview; then the outputs and the first picture.

    Everything goes to standard error, except the paths of the outputs.

    Args:
        pictures: Whether to draw pictures, if the terminal can.
        console: Standard error by default.
    """

    def __init__(self, *, pictures: bool = True, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(stderr=True, highlight=False)
        self._graphics: Graphics | None = graphics_of(self._console) if pictures else None
        unicode = self._console.encoding.lower().startswith("utf")
        self._dot = "·" if unicode else "-"
        self._done = "✓" if unicode else "Done:"
        self._spinner = Spinner("dots" if unicode else "line", style="cyan")
        self._status = "Starting"
        self._progress = Progress()
        self._preview: Picture | None = None
        self._fetched = 0
        self._to_fetch: int | None = None
        self._fetching = False
        self._loading = False
        self._sent: tuple[int, int] | None = None
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
        self._console.print(Text(printable_line(message), "dim"))

    def waiting(self) -> None:
        """Nothing: the display moves."""

    def connecting(self, target: str) -> None:
        self._status = f"Sending to {printable_line(target)}"

    def sending(self, sent: int, total: int) -> None:
        self._sent = sent, total

    def following(self, job_id: str, target: str, prompt: Prompt) -> None:
        self._prompt = prompt
        self._console.print(
            Text.assemble(("Job ", "dim"), job_id, (f" on {printable_line(target)}", "dim"))
        )
        self._status, self._sent = "Sent", None

    def would_send(self, dry: DryRun) -> None:
        self._stop()
        super().would_send(dry)

    def left(self, job_id: str) -> None:
        self._stop()
        super().left(job_id)

    def event(self, event: Event) -> None:
        match event:
            case Queued(position):
                self._status = f"Queued, {position} ahead" if position else "Queued"
            case Phase():
                self._status = str(event)
                self._loading = event.name == "loading"
            case Started():
                self._status = "Running"
            case Progress():
                self._progress = event
                if not self._loading:
                    self._status = "Running (estimated)" if event.estimated else "Running"
            case Preview():
                self._show_preview(event.data)
            case Log():
                style = {"warning": "yellow", "error": "red"}.get(event.level, "dim")
                self._console.print(Text(printable_line(event.message), style))
            case Finished():
                self._preview = None

    def fetching(self, outputs: Sequence[RemoteOutput]) -> None:
        sizes = [output.size for output in outputs]
        self._to_fetch = sum(size or 0 for size in sizes) if None not in sizes else None
        self._fetching = True
        self._status = "Fetching"

    def received(self, size: int) -> None:
        self._fetched += size

    def done(
        self, outputs: Outputs, seconds: float, problems: Sequence[OutputProblem] = ()
    ) -> None:
        self._stop()
        saved = [output for output in outputs if isinstance(output, SavedOutput)]
        not_fetched = "" if len(saved) == len(outputs) else ", not fetched"
        done = f"{counted(len(outputs), 'output')} in {seconds_text(seconds)}{not_fetched}"
        self._console.print(Text.assemble((f"{self._done} ", "bold green"), done))
        if problems:
            self._console.print(Text(incomplete(problems), "yellow"))
        if not_fetched:
            print_places(outputs)
            return
        self._show_first(saved)
        self._show_table(saved)

    def partial(self, outputs: Sequence[SavedOutput]) -> None:
        self._stop()
        self._console.print(Text(f"Saved before it failed: {len(outputs)}.", "yellow"))
        self._show_table(outputs)

    def _show_table(self, outputs: Sequence[SavedOutput]) -> None:
        if not sys.stdout.isatty():
            print_places(outputs)
            return
        console = Console(highlight=False)
        more = len(outputs) - _MOST_LISTED if len(outputs) > _MOST_LISTED + 1 else 0
        rows = [self._row(output) for output in outputs[: len(outputs) - more]]
        table = Table.grid(padding=(0, 2))
        for row in rows:
            table.add_row(*row)
        if fits(table, console):
            console.print(table)
        else:  # the terminal wraps a path that is too long, and whoever copies it gets it whole
            for row in rows:
                console.print(Text("  ").join(row), soft_wrap=True)
        if more:
            folder = Path(os.path.commonpath([output.path.parent for output in outputs]))
            rest = f"… and {more} more in {relative(folder)}"
            console.print(Text(printable_line(rest), "dim"), soft_wrap=True)

    def _row(self, output: SavedOutput) -> tuple[Text, Text, Text]:
        node = "" if output.node_id is None else node_label(self._prompt, output.node_id)
        return (
            Text(printable_line(str(relative(output.path))), "bold"),
            Text(size_text(output.size), "dim"),
            Text(printable_line(node), "dim"),
        )

    def choose(self, question: str, options: Sequence[str]) -> int | None:
        return choose_beside(self._live, question, options)

    def failed(self, error: ComfyRemoteError, job_id: str | None, *, resumable: bool) -> None:
        self._stop()
        super().failed(error, job_id, resumable=resumable)

    def _stop(self) -> None:
        if self._live.is_started:
            self._live.stop()
            if self._preview is not None or self._graphics == "kitty":
                self._console.file.write(remove_preview(self._graphics))
                self._console.file.flush()

    def _view(self) -> RenderableType:
        lines: list[RenderableType] = [self._head()]
        if not self._fetching:
            if self._progress.node_id is not None:
                lines.append(self._node(self._progress.node_id))
            if self._progress.message:
                lines.append(Text(f"  {printable_line(self._progress.message)}", "dim"))
            # A display higher than the screen could not be redrawn.
            if self._preview is not None and self._console.height > self._preview.rows + 6:
                lines.append(self._preview)
        return Group(*lines)

    def _head(self) -> Table:
        """``⠹ Running ━━━━━━━━━━╸━━━━━━━ 3/9 nodes · 14 s``."""
        progress = self._progress
        total: float | None = 1.0
        completed = progress.fraction
        figures = f"{progress.nodes_done}/{progress.nodes_total} nodes"
        if self._fetching:
            total, completed = self._to_fetch, self._fetched
            of = "" if self._to_fetch is None else f" of {size_text(self._to_fetch)}"
            figures = f"{size_text(self._fetched)}{of}"
        elif self._sent is not None:
            completed, total = self._sent
            figures = f"{size_text(completed)} of {size_text(total)}"
        elif progress.nodes_total == 0:
            total, figures = None, ""
        elapsed = seconds_text(time.monotonic() - self._began)
        figures = f"{figures} {self._dot} {elapsed}" if figures else elapsed
        row = Table.grid(padding=(0, 1), expand=False)
        row.add_row(
            self._spinner,
            Text(self._status, "bold", overflow="ellipsis", no_wrap=True),
            ProgressBar(
                total=total,
                completed=completed,
                pulse=total is None,
                width=max(8, min(30, self._console.width - 50)),
            ),
            Text(figures, no_wrap=True),
        )
        return row

    def _node(self, node_id: str) -> Table:
        """``  KSampler (3) ━━━━━━━━━━━━ step 12/20``."""
        progress = self._progress
        row = Table.grid(padding=(0, 1), expand=False)
        cells: list[RenderableType] = [
            Text(" "),
            Text(
                printable_line(node_label(self._prompt, node_id)),
                "cyan",
                overflow="ellipsis",
                no_wrap=True,
            ),
        ]
        if progress.step is not None and progress.steps:
            cells += [
                ProgressBar(total=progress.steps, completed=progress.step, width=20),
                Text(f"step {progress.step:g}/{progress.steps:g}", no_wrap=True),
            ]
        row.add_row(*cells)
        return row

    def _show_preview(self, data: bytes) -> None:
        if self._graphics is not None:
            picture = load_picture(data, self._graphics, **_PREVIEW_SIZE, preview=True)
            self._preview = picture or self._preview

    def _show_first(self, outputs: Sequence[SavedOutput]) -> None:
        paths: list[Path] = [output.path for output in outputs if output.kind == "image"]
        if self._graphics is not None and paths:
            columns = min(_RESULT_SIZE["columns"], self._console.width - 4)
            rows = min(_RESULT_SIZE["rows"], self._console.height - 6)
            picture = load_picture(paths[0], self._graphics, columns=columns, rows=max(4, rows))
            if picture is not None:
                self._console.print(picture)


def choose_beside(live: Live, question: str, options: Sequence[str]) -> int | None:
    """Ask the person at the terminal, with a display stopped for that; see `Reporter.choose`."""
    if not sys.stdin.isatty():
        return None
    from rich.prompt import IntPrompt

    live.stop()
    for number, option in enumerate(options, 1):
        live.console.print(Text(f"  {number}  {printable_line(option)}"))
    numbers = [str(number) for number in range(1, len(options) + 1)]
    chosen = IntPrompt.ask(Text(question), console=live.console, choices=numbers)
    live.start()
    return chosen - 1

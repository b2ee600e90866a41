"""All of a batch on one sheet: a page that opens offline, and a picture.

```
reading      what the batch's folder says         page_data   … as the page gets it
thumbnails   small pictures, made once            html        sheet.html (its parts: page/)
keeps        what was kept and rejected           overview    sheet.png
serving      the sheet by HTTP on this machine, where it writes keeps.json itself
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import LocalStorageError
from ...units import counted
from .html import SHEET, write_page
from .overview import OVERVIEW, write_overview
from .page_data import page_data
from .reading import BATCH, MANIFEST, Batch, read_batch
from .serving import SheetRoutes, SheetServer, serve_sheet
from .thumbnails import Thumbnails

__all__ = ["SheetMade", "SheetRoutes", "SheetServer", "make_sheet", "serve_sheet"]

_MOST_SAID = 5


@dataclass(frozen=True, slots=True)
class SheetMade:
    """What `make_sheet` has made.

    Attributes:
        html: The page.
        png: The picture; ``None`` if it was not wanted.
        thumbnails: How many were made this time.
        notes: What the sheet does not show, and why, as sentences.
    """

    html: Path
    png: Path | None
    thumbnails: int
    notes: list[str] = field(default_factory=list)


def make_sheet(
    folder: Path,
    *,
    embed: bool = False,
    png: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> SheetMade:
    """Make the sheet of a batch in its folder. It blocks: call it in a thread.

    The batch may still be running: what has come so far is shown, and only what is new is work.

    Args:
        folder: That has ``manifest.jsonl``.
        embed: Put everything into the page: thumbnails whatever their size, larger pictures, video
            and sound, up to `html.LARGEST_EMBEDDED`.
        png: Whether ``sheet.png`` is made, too.
        progress: Called with how many thumbnails are made, and of how many.

    Raises:
        LocalStorageError: The folder has no batch, or cannot be read or written.
    """
    if not any((folder / name).is_file() for name in (BATCH, MANIFEST)):
        raise LocalStorageError(
            f"{folder} is not the folder of a batch: it has neither {BATCH} nor {MANIFEST}.",
            advice="Name the folder that the batch's outputs are in.",
            details={"path": str(folder)},
        )
    batch = read_batch(folder)
    outputs = [one for run in batch.runs for one in run.outputs]
    thumbnails = Thumbnails(folder)
    made = thumbnails.make(outputs, progress)
    thumbnails.tidy(outputs)
    previews = None
    if embed:
        previews = Thumbnails(folder, large=True)
        previews.make(outputs, progress)
        previews.tidy(outputs)
    data = page_data(batch, folder, thumbnails)
    notes = [*batch.notes, *_refusals(batch, thumbnails)]
    notes += write_page(batch, data, folder, thumbnails, previews)
    if png:
        notes += write_overview(batch, data, folder, thumbnails)
    return SheetMade(folder / SHEET, folder / OVERVIEW if png else None, made, notes)


def _refusals(batch: Batch, thumbnails: Thumbnails) -> list[str]:
    """Which pictures have no thumbnail, and why."""
    said = [why for run in batch.runs for one in run.outputs if (why := thumbnails.refusal(one))]
    if len(said) <= _MOST_SAID:
        return said
    return [
        *said[:_MOST_SAID],
        f"{counted(len(said) - _MOST_SAID, 'more picture')} without a thumbnail.",
    ]

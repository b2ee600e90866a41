"""``comfy-remote batch sheet``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import batch_argument

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["sheet"]


@click.command(short_help="Make the sheet of a batch, on which it is looked through.")
@batch_argument
@click.option(
    "--serve",
    is_flag=True,
    help="Serve it on this machine until Ctrl-C: what you keep and reject is then written into "
    "keeps.json, and new runs appear.",
)
@click.option("--port", metavar="N", type=click.IntRange(0, 65535), default=0, help="For --serve.")
@click.option("--embed", is_flag=True, help="Put everything into sheet.html itself.")
@click.option("--open", "open_it", is_flag=True, help="Open it in the browser.")
def sheet(batch: str, serve: bool, port: int, embed: bool, open_it: bool) -> None:
    """Make the sheet of a batch again, with what has come so far, and print its path.

    It is a page that opens offline, with the axes as rows and columns, and a picture, sheet.png,
    in the batch's folder. It is made by itself when a batch ends. BATCH may also be such a folder.
    """
    import asyncio
    import sys
    from pathlib import Path

    from ...batch.sheet import make_sheet
    from ...jobs.record import Record
    from ..console import is_interactive, redraw, say
    from ..interrupt import run_interruptible
    from ..reporter import relative

    folder = Path(batch)
    if not (folder / "batch.json").is_file():
        with Record() as record:
            folder = record.batches.get(batch).folder
    if serve:
        try:
            run_interruptible(_served(folder, port, open_it=open_it))
        except asyncio.CancelledError:
            raise click.exceptions.Exit(130) from None
        return
    shows = is_interactive(sys.stderr)

    def progress(made: int, of: int) -> None:
        if shows:
            redraw(f"Thumbnails: {made} of {of}")

    made = make_sheet(folder, embed=embed, progress=progress)
    if shows:
        redraw("")
    for note in made.notes:
        say(note)
    print(relative(made.html), flush=True)
    if open_it:
        _open(made.html.absolute().as_uri())


async def _served(folder: Path, port: int, *, open_it: bool) -> None:
    from ...batch.sheet import serve_sheet
    from ..console import say

    def ready(url: str) -> None:
        print(url, flush=True)
        say("Ctrl-C ends it. What you keep and reject is in keeps.json.")
        if open_it:
            _open(url)

    await serve_sheet(folder, port, ready=ready)


def _open(address: str) -> None:
    import webbrowser

    from ..console import say

    if not webbrowser.open(address):
        say("--open: there is no browser on this machine.")

"""``comfy-remote batch rm``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import batch_argument

if TYPE_CHECKING:
    from pathlib import Path

    from ...jobs.record import BatchEntry

__all__ = ["rm"]

_DESCRIBE = ("manifest.jsonl", "batch.json", "sheet.html", "sheet.png", "keeps.json")


@click.command(short_help="Forget a batch; its files stay.")
@batch_argument
@click.option("--files", is_flag=True, help="Remove the files that it has made, too, after a yes.")
@click.option("-y", "--yes", is_flag=True, help="Remove them without asking.")
@click.option("--force", is_flag=True, help="Even if runs are under way: they go on.")
def rm(batch: str, files: bool, yes: bool, force: bool) -> None:
    """Forget a batch. The files in its folder stay, unless --files says otherwise.

    With --files go those that manifest.jsonl names, the manifest, and the sheet; whatever else is
    in the folder stays. Its jobs stay in `jobs list`.
    """
    from ...batch.store import remove
    from ...errors import ConfigurationError
    from ...jobs.record import Record
    from ...units import counted
    from ..asking import can_ask
    from ..console import say
    from ..interrupt import run_interruptible
    from ..reporter import relative
    from .words import batch_command

    with Record() as record:
        entry = record.batches.get(batch)
        if entry.begun and not force:
            raise ConfigurationError(
                f"{counted(entry.begun, 'run')} of {entry.name} have begun and not ended. Nothing "
                "was removed.",
                advice=f"Cancel them first: {batch_command('cancel', entry)}",
            )
        made = _files_of(entry) if files else []
        if made and not yes:
            if not can_ask():
                raise ConfigurationError(
                    f"{counted(len(made), 'file')} in {entry.folder} would be removed, and nobody "
                    "can be asked. Nothing was removed.",
                    advice="If that is meant, add --yes.",
                )
            where = relative(entry.folder)
            click.confirm(f"Remove {counted(len(made), 'file')} in {where}?", abort=True, err=True)
        run_interruptible(remove(entry, record))
    gone = _remove(made, entry.folder) if made else 0
    rest = f", and {counted(gone, 'file')}." if files else f". Its files stay in {entry.folder}."
    say(f"Removed {entry.name}{rest}")


def _files_of(entry: BatchEntry) -> list[Path]:
    """What it has made that is still there: its outputs, and what describes them."""
    from ...batch.manifest import MANIFEST, read_manifest
    from ...workflow.files import file_below

    folder = entry.folder
    lines = read_manifest(folder / MANIFEST).values()
    names = [output["file"] for line in lines for output in line.outputs]
    names += [*_DESCRIBE, *(f"thumbnails/{one.name}" for one in folder.glob("thumbnails/*"))]
    # The manifest is a file like others: what it names elsewhere is not even looked up.
    return [folder / name for name in names if file_below(folder, name) is not None]


def _remove(paths: list[Path], folder: Path) -> int:
    """Remove files, and the folders that are empty then; how many files."""
    from ...media.file_changes import remove_empty_folder, remove_file
    from ...media.files import storage_errors

    for path in paths:
        with storage_errors(path):
            remove_file(path, missing_ok=True)
    parents = {
        parent for path in paths for parent in path.parents if folder in (parent, *parent.parents)
    }
    for parent in sorted(parents, key=lambda one: len(one.parts), reverse=True):
        if parent.is_dir() and not any(parent.iterdir()):
            with storage_errors(parent):
                remove_empty_folder(parent)
    return len(paths)

"""The files of an engine on this machine: its folders, and what a job wrote that no node listed.

ComfyUI's SaveImageDataSetToFolder writes files that it does not list, and so do custom nodes that
put a text beside a picture.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlencode

from ..events import Finished
from ..media.files import subfolder_of
from ..outputs import OutputSource, RemoteOutput, in_prompt_order, kind_of, media_type_of
from ..types import JsonValue
from ..workflow.files import file_below
from ..workflow.graph import output_nodes
from ..workflow.prompt import Prompt
from .engine_arguments import arguments_of, path_after

__all__ = [
    "EngineFolders",
    "NodeTimes",
    "files_since",
    "folders_in",
    "unlisted_files",
    "with_unlisted",
]

# The times of files come from the kernel's coarse clock, which may be this far behind.
_CLOCK_TICK = 0.05
# Enough for what a job writes; a folder that has grown for years is not searched to its end.
_MOST_SEEN = 50_000
_MOST_FILES = 1000


@dataclass(frozen=True, slots=True)
class EngineFolders:
    """The three folders of an engine on this machine."""

    input: Path
    output: Path
    temp: Path

    def file(self, folder: str, subfolder: str, filename: str) -> Path | None:
        """A file in one of them, if it is one, and really there."""
        root = {"input": self.input, "output": self.output, "temp": self.temp}.get(folder)
        name = f"{subfolder}/{filename}" if subfolder else filename
        if root is None or file_below(root, name) is None:
            return None
        path = root / name
        return None if path.is_symlink() else path


def folders_in(
    stats: Mapping[str, JsonValue], *, started_here: bool = False
) -> EngineFolders | None:
    """The folders that an engine was started with, from the ``argv`` in its ``/system_stats``.

    Args:
        started_here: Whether it was started in its own folder: then relative ones are below that.

    Returns:
        ``None`` if one of them is not known.

    Source of facts: ComfyUI's ``folder_paths.py`` and ``main.py`` (0.3.64 and 0.33.0).
    """
    argv = arguments_of(stats)
    if not argv:
        return None
    own = Path(argv[0]).parent

    def after(flag: str) -> Path | None:
        path = path_after(argv, flag)
        return own / path if path is not None and started_here else path

    base = after("--base-directory") or own
    if not base.is_absolute():
        return None
    temp = after("--temp-directory")
    found = EngineFolders(
        input=after("--input-directory") or base / "input",
        output=after("--output-directory") or base / "output",
        temp=temp / "temp" if temp else base / "temp",
    )
    absolute = all(path.is_absolute() for path in (found.input, found.output, found.temp))
    return found if absolute else None


@dataclass
class NodeTimes:
    """Which node ran when, as the engine reported it.

    Attributes:
        began: When each began, in seconds since the epoch, and its id.
    """

    began: list[tuple[float, str]] = field(default_factory=list)

    def running(self, node_id: str | None, now: float) -> None:
        """Note that a node runs at this moment."""
        if node_id is not None and (not self.began or self.began[-1][1] != node_id):
            self.began.append((now, node_id))

    def at(self, moment: float) -> str | None:
        """Which node ran then; ``None`` before the first."""
        earlier = [node_id for began, node_id in self.began if began <= moment]
        return earlier[-1] if earlier else None


async def with_unlisted(
    finished: Finished,
    folder: Path,
    since: float,
    prompt: Prompt,
    times: NodeTimes,
    listed: Iterable[RemoteOutput] = (),
) -> Finished:
    """The end of a job, with the files that no node listed added to its outputs.

    Args:
        listed: Outputs of other jobs.
    """
    more = await asyncio.to_thread(unlisted_files, folder, since, prompt, finished.outputs, times)
    others = {one.file for one in listed}
    more = [one for one in more if one.file not in others]
    if not more:
        return finished
    outputs = in_prompt_order((*finished.outputs, *more), prompt)
    found = {one.node_id for one in more}
    # Reported as missing by a target that did not look into the folder.
    problems = [one for one in finished.problems if one.filename or one.node_id not in found]
    return replace(finished, outputs=outputs, problems=tuple(problems))


def unlisted_files(
    folder: Path, since: float, prompt: Prompt, listed: Sequence[RemoteOutput], times: NodeTimes
) -> list[RemoteOutput]:
    """The new files below the output folder that are not among the outputs. Blocking.

    Args:
        folder: The engine's ``output``.
        since: When the job began, in seconds since the epoch.
        times: Says which node wrote a file, if several may have.

    Returns:
        Sorted by path. The node is known if only one output node listed nothing, or if one of
        the prompt's nodes ran when the file was written.
    """
    known = {(one.subfolder, one.filename) for one in listed}
    silent = _silent_ends(prompt, listed)
    found = []
    for path, written in _new_files(folder, since - _CLOCK_TICK):
        relative = path.relative_to(folder)
        subfolder = subfolder_of(relative)
        if (subfolder, relative.name) in known:
            continue
        running = times.at(written)
        owner = silent[0] if len(silent) == 1 else running if running in prompt else None
        found.append(_output(owner, subfolder, relative.name))
    return sorted(found, key=lambda one: (one.subfolder, one.filename))[:_MOST_FILES]


def files_since(folders: EngineFolders, since: float) -> list[tuple[str, str, str]]:
    """What was written into ``output`` and ``temp`` since then: folder, subfolder and name of each.
    Blocking.
    """
    return [
        (name, subfolder_of(path.relative_to(folder)), path.name)
        for name, folder in (("output", folders.output), ("temp", folders.temp))
        for path, _ in _new_files(folder, since - _CLOCK_TICK)
    ]


def _silent_ends(prompt: Prompt, listed: Iterable[RemoteOutput]) -> list[str]:
    """The output nodes that listed nothing."""
    with_outputs = {one.drawn_node for one in listed}
    return [node_id for node_id in output_nodes(prompt) if node_id not in with_outputs]


def _new_files(folder: Path, since: float) -> Iterator[tuple[Path, float]]:
    """The new files, and when they were written. A job waits for this: one `stat` an old file."""
    seen = 0
    folders = [str(folder)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                seen += 1
                if seen > _MOST_SEEN:
                    return
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    new = status.st_size and status.st_mtime >= since
                    if new and stat.S_ISREG(status.st_mode):
                        yield Path(entry.path), status.st_mtime


def _output(node_id: str | None, subfolder: str, filename: str) -> RemoteOutput:
    query = urlencode({"filename": filename, "subfolder": subfolder, "type": "output"})
    return RemoteOutput(
        node_id=node_id,
        kind=kind_of(filename),
        filename=filename,
        subfolder=subfolder,
        media_type=media_type_of(filename),
        source=OutputSource(path=f"view?{query}"),
    )

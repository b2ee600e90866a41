"""Files that a job wrote into the output folder and that no node told of.

Core's SaveImageDataSetToFolder does so, and custom nodes that write a text beside a picture. On
an engine whose folders are here, they can be seen.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlencode

from ..events import Finished
from ..outputs import OutputSource, RemoteOutput, kind_of, media_type_of
from ..workflow.prompt import Prompt, is_link

__all__ = ["NodeTimes", "untold_files", "with_untold"]

# The times of files come from the kernel's clock, which ticks.
_CLOCK_TICK = 0.05
# What a job writes, not what somebody has collected over the years.
_MOST_SEEN = 50_000
_MOST_FILES = 1000


@dataclass
class NodeTimes:
    """Which node ran when, as the engine told it.

    Attributes:
        began: When each began, in seconds since the epoch, and its id.
    """

    began: list[tuple[float, str]] = field(default_factory=list)

    def running(self, node_id: str | None, now: float) -> None:
        """That node runs now."""
        if node_id is not None and (not self.began or self.began[-1][1] != node_id):
            self.began.append((now, node_id))

    def at(self, moment: float) -> str | None:
        """Which node ran then; ``None`` before the first."""
        earlier = [node_id for began, node_id in self.began if began <= moment]
        return earlier[-1] if earlier else None


async def with_untold(
    finished: Finished, folder: Path, since: float, prompt: Prompt, times: NodeTimes
) -> Finished:
    """The end of a job, with the files among its outputs that no node told of.

    Args:
        folder: As for `untold_files`, and so are the rest.
    """
    more = await asyncio.to_thread(untold_files, folder, since, prompt, finished.outputs, times)
    if not more:
        return finished
    order = {node_id: number for number, node_id in enumerate(prompt)}
    outputs = sorted(
        (*finished.outputs, *more),
        key=lambda one: order.get((one.node_id or "").partition(".")[0], len(order)),
    )
    found = {one.node_id for one in more}
    # Whoever cannot see the folder has said that these are missing.
    problems = [one for one in finished.problems if one.filename or one.node_id not in found]
    return replace(finished, outputs=tuple(outputs), problems=tuple(problems))


def untold_files(
    folder: Path,
    since: float,
    prompt: Prompt,
    told: Sequence[RemoteOutput],
    times: NodeTimes,
) -> list[RemoteOutput]:
    """The files below the output folder that are new, and no output names. Blocks.

    Args:
        folder: The engine's ``output``.
        since: When the job began, in seconds since the epoch.
        prompt: The job's.
        told: What its nodes have listed.
        times: Tells whose a file is, where several nodes may have written it.

    Returns:
        By path. Each with its node where that can be known: the only one at the end of the prompt
        that told of nothing, or that which ran when the file was written.
    """
    known = {(one.subfolder, one.filename) for one in told}
    silent = _silent_ends(prompt, told)
    found = []
    for path, written in _new_files(folder, since - _CLOCK_TICK):
        relative = path.relative_to(folder)
        subfolder = "" if relative.parent == Path() else relative.parent.as_posix()
        if (subfolder, relative.name) in known:
            continue
        running = times.at(written)
        owner = silent[0] if len(silent) == 1 else running if running in prompt else None
        found.append(_output(owner, subfolder, relative.name))
    return sorted(found, key=lambda one: (one.subfolder, one.filename))[:_MOST_FILES]


def _silent_ends(prompt: Prompt, told: Iterable[RemoteOutput]) -> list[str]:
    """The nodes at the end of the prompt that told of nothing."""
    taken = {
        str(value[0])
        for node in prompt.values()
        for value in node["inputs"].values()
        if is_link(value) and isinstance(value, list)
    }
    spoke = {(one.node_id or "").partition(".")[0] for one in told}
    return [node_id for node_id in prompt if node_id not in taken and node_id not in spoke]


def _new_files(folder: Path, since: float) -> Iterator[tuple[Path, float]]:
    seen = 0
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            seen += 1
            if seen > _MOST_SEEN:
                return
            if name.startswith("."):
                continue
            path = Path(at, name)
            try:
                status = path.lstat()
            except OSError:
                continue
            regular = path.is_file() and not path.is_symlink()
            if regular and status.st_size and status.st_mtime >= since:
                yield path, status.st_mtime


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

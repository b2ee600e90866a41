"""A job's outputs, copied from the engine to our files, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..aio import concurrent_map, in_thread
from ..errors import (
    ComfyRemoteError,
    LocalStorageError,
    OutputCorrupt,
    RateLimited,
    TargetUnreachable,
)
from ..media.disk_space import DiskLimits
from ..media.file_changes import discard
from ..media.files import link_or_copy, sha256_of
from ..media.receive import Received
from ..media.verify import check_whole
from ..outputs import OutputProblem, RemoteOutput
from ..targets.base import Target
from ..targets.download import download
from ..targets.engine_files import EngineFolders
from ..workflow.prompt import Prompt

# From the engine on this machine; what the worker keeps has limits of its own.
_NO_LIMITS = DiskLimits(largest=2**63, free=0)

__all__ = ["Collected", "CollectedOutput", "collect_outputs"]


@dataclass(frozen=True, slots=True)
class CollectedOutput:
    """An output, and its file; a text (``output.text``) has none."""

    output: RemoteOutput
    file: Received | None


@dataclass(frozen=True, slots=True)
class Collected:
    """The outputs that could be brought here, and what is wrong with the others.

    Attributes:
        outputs: In the order in which they were wanted.
        problems: What is wrong with the others, and with those that are damaged.
        lost: The outputs that the engine does not have, and why.
    """

    outputs: list[CollectedOutput] = field(default_factory=list)
    problems: list[OutputProblem] = field(default_factory=list)
    lost: list[tuple[RemoteOutput, ComfyRemoteError]] = field(default_factory=list)


async def collect_outputs(
    target: Target,
    outputs: Sequence[RemoteOutput],
    folder: Path,
    prompt: Prompt,
    engine: EngineFolders | None = None,
) -> Collected:
    """Bring every output into ``folder``, four side by side.

    One that the engine does not have, or not whole, does not cost the others.

    Args:
        engine: Its folders, if they are on this machine and its files are ours: a whole
            file there is linked, and not sent.

    Raises:
        TargetUnreachable: The engine does not answer.
        LocalStorageError: It cannot be written (disk full).
    """

    async def collect(numbered: tuple[int, RemoteOutput]) -> CollectedOutput | ComfyRemoteError:
        number, output = numbered
        if output.text is not None:
            return CollectedOutput(output, None)
        path = folder / f"output-{number}"
        try:
            file = await in_thread(_linked, engine, output, path) if engine is not None else None
            if file is None:
                file = await download(target, output, path, limits=_NO_LIMITS)
        except LocalStorageError:
            raise
        except (TargetUnreachable, RateLimited) as error:
            if "http_status" not in error.details:
                raise
            return error  # it answers, and has no answer but that for this file
        except ComfyRemoteError as error:
            return error
        return CollectedOutput(output, file)

    collected = Collected()
    found = await concurrent_map(collect, enumerate(outputs))
    for output, here in zip(outputs, found, strict=True):
        if isinstance(here, ComfyRemoteError):
            collected.lost.append((output, here))
            reason = here.message
        else:
            collected.outputs.append(here)
            reason = here.file.doubt if here.file else ""
        if reason:
            node = prompt.get(output.node_id or "")
            collected.problems.append(
                OutputProblem(
                    output.node_id, node["class_type"] if node else None, output.filename, reason
                )
            )
    return collected


def _linked(folders: EngineFolders, output: RemoteOutput, path: Path) -> Received | None:
    """The file in the engine's folder, under a second name. Blocking.

    Returns:
        ``None`` if it is not there or not whole: what that means is seen when it is downloaded.
    """
    source = folders.file(output.folder, output.subfolder, output.filename)
    if source is None:
        return None
    try:
        link_or_copy(source, path)
        check_whole(path, output.filename)
        if size := path.stat().st_size:
            return Received(path, size, sha256_of(path))
    except (OSError, OutputCorrupt):
        pass
    discard(path)
    return None

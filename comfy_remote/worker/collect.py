"""A job's outputs, brought from the engine to files of ours, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..outputs import RemoteOutput
from ..targets.base import Target
from ..targets.download import Downloaded, download

__all__ = ["CollectedOutput", "collect_outputs"]

_AT_A_TIME = 4


@dataclass(frozen=True, slots=True)
class CollectedOutput:
    """An output, and its file; a text (``output.text``) has none."""

    output: RemoteOutput
    file: Downloaded | None


async def collect_outputs(
    target: Target, outputs: Sequence[RemoteOutput], folder: Path
) -> list[CollectedOutput]:
    """Stream every output into ``folder``, four side by side.

    Returns:
        In the order of ``outputs``.

    Raises:
        ComfyRemoteError: As `download` does; the files then in ``folder`` are of no use.
    """
    limit = asyncio.Semaphore(_AT_A_TIME)

    async def collect(number: int, output: RemoteOutput) -> CollectedOutput:
        if output.text is not None:
            return CollectedOutput(output, None)
        async with limit:
            return CollectedOutput(
                output, await download(target, output, folder / f"output-{number}")
            )

    tasks = [asyncio.ensure_future(collect(n, output)) for n, output in enumerate(outputs)]
    try:
        return await asyncio.gather(*tasks)
    finally:
        # When one fails, the others must not write on into a folder that goes away.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

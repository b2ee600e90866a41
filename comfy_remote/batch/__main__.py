"""Drives a batch in a process of its own: ``python -m comfy_remote.batch FOLDER ID``."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

from ..config.environment import load_env_files
from ..config.log import clean_handlers, log_to_stderr
from ..errors import ComfyRemoteError
from ..jobs.record import BatchState, Record
from ..secrets import SECRETS
from .events import Noted, RunEnded, Stopped, Waits
from .frozen import Frozen, batch_folder
from .store import driving, is_driven

_log = logging.getLogger(__name__)


async def _drive(record: Record, batch_id: str) -> None:
    entry = await record.read(record.batches.get, batch_id)
    async with driving(entry, record, by_hand=False) as driver:
        async for event in driver:
            match event:
                case RunEnded(line=line):
                    _log.info("Run %d: %s.", line.row, line.state)
                case Waits(why=why):
                    _log.info("Waits: %s", why)
                case Noted(message=message):
                    _log.info("%s", message)
                case Stopped(entry=entry):
                    _log.info("The batch is %s. %s", entry.state.value, entry.why or "")


def _go(record: Record, batch_id: str) -> int:
    folder = record.path.parent
    try:
        # What names and files meant where it was made, they mean here.
        os.chdir(Frozen.load(batch_folder(folder, batch_id)).folder)
        load_env_files()
        asyncio.run(_drive(record, batch_id))
    except (ComfyRemoteError, OSError) as error:
        _log.error("%s", error)
        # Nobody sees this process: who looks at the batch reads why it does not go on.
        over = record.batches.get(batch_id).state.final
        if not over and not is_driven(folder, batch_id):
            record.batches.state(batch_id, BatchState.PAUSED, str(error))
        return 1
    return 0


def main() -> int:
    """Run it; 0 once the batch has ended or is paused."""
    folder, batch_id = Path(sys.argv[1]), sys.argv[2]
    SECRETS.add_environment(os.environ)
    log_to_stderr(logging.INFO, "%(asctime)s %(message)s")
    clean_handlers()
    try:
        with Record(folder) as record:
            return _go(record, batch_id)
    except ComfyRemoteError as error:
        _log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""Ctrl-C and its like, the same on every platform and Python: first politely, then at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from types import FrameType
from typing import TypeVar

from .signals import LIKE_CTRL_C

__all__ = ["run_interruptible"]

_T = TypeVar("_T")


def run_interruptible(work: Coroutine[object, object, _T]) -> _T:
    """Like `asyncio.run`, but the first Ctrl-C cancels ``work``, which may then tidy up.

    So do the signals `LIKE_CTRL_C`.

    Not `asyncio.run`'s own handling, which in Python 3.10 cancels every task, also those that
    tidying up needs; nor `loop.add_signal_handler`, which Windows lacks.

    Args:
        work: What to run.

    Raises:
        KeyboardInterrupt: At the second signal, wherever the work is then.
    """
    numbers = [signal.SIGINT, *LIKE_CTRL_C]

    async def main() -> _T:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        interrupted = False

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            nonlocal interrupted
            if interrupted or task is None:
                raise KeyboardInterrupt
            interrupted = True
            loop.call_soon_threadsafe(task.cancel)

        for number in numbers:
            signal.signal(number, on_signal)
        return await work

    before = {number: signal.getsignal(number) for number in numbers}
    try:
        return asyncio.run(main())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

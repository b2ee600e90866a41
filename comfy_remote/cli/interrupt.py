"""Ctrl-C and its like, the same on every platform and Python: first politely, then at once.

``timeout``, CI and ``docker stop`` send SIGTERM; Windows sends SIGBREAK for Ctrl-Break and when the
console's window is closed (and then ends the process within seconds).
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import TypeVar

__all__ = ["LIKE_CTRL_C", "run_interruptible", "treat_like_ctrl_c"]

_T = TypeVar("_T")

_USUAL = gc.get_threshold()

LIKE_CTRL_C = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name)
)
"""Those that this platform has."""


def treat_like_ctrl_c() -> None:
    """Have them raise `KeyboardInterrupt` from now on."""
    for number in LIKE_CTRL_C:
        signal.signal(number, signal.default_int_handler)


def run_interruptible(
    work: Coroutine[object, object, _T], politely: Callable[[], None] | None = None
) -> _T:
    """As `asyncio.run`, but the first Ctrl-C cancels ``work``, which may then clean up.

    So do the signals `LIKE_CTRL_C`. A second one raises `KeyboardInterrupt` at once.

    Args:
        politely: Called in the event loop at the first Ctrl-C instead; then the second one cancels
            ``work``, and a third one raises `KeyboardInterrupt`.

    This is not `asyncio.run`'s own handling, which in Python 3.10 cancels every task, also those
    that the clean-up needs; nor `loop.add_signal_handler`, which Windows lacks.
    """
    import asyncio

    numbers = [signal.SIGINT, *LIKE_CTRL_C]

    async def main() -> _T:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        answers: list[Callable[[], object]] = [] if politely is None else [politely]
        answers += [] if task is None else [task.cancel]

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            if not answers:
                raise KeyboardInterrupt
            loop.call_soon_threadsafe(answers.pop(0))

        for number in numbers:
            signal.signal(number, on_signal)
        return await work

    gc.freeze()  # what was imported stays
    gc.set_threshold(*_USUAL)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        return asyncio.run(main())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

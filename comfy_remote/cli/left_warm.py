"""What an earlier program changed at an endpoint to keep workers, put back by the next command."""

from __future__ import annotations

__all__ = ["put_back_left"]


def put_back_left() -> None:
    """Put it back, and say so, or why that is not possible yet."""
    from ..jobs.keep_warm import left_behind

    if not (notes := left_behind()):
        return
    from contextlib import suppress

    from ..config.environment import load_env_files
    from ..errors import ConfigurationError
    from ..jobs.keep_warm import put_back
    from .console import say
    from .interrupt import run_interruptible

    with suppress(ConfigurationError):  # the command itself says what is wrong with a file
        load_env_files()
    for sentence in run_interruptible(put_back(notes)):
        say(sentence)

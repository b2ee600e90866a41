"""The signals that mean what Ctrl-C means.

``timeout``, CI and ``docker stop`` send SIGTERM; Windows sends SIGBREAK for Ctrl-Break and when the
console's window is closed (and then ends the process within seconds).
"""

from __future__ import annotations

import signal

__all__ = ["LIKE_CTRL_C", "treat_like_ctrl_c"]

LIKE_CTRL_C = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name)
)
"""Those that this platform has."""


def treat_like_ctrl_c() -> None:
    """Have them raise `KeyboardInterrupt` from now on; see `interrupt` for what then tidies up."""
    for number in LIKE_CTRL_C:
        signal.signal(number, signal.default_int_handler)

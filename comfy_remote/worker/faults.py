"""Which failures leave an engine behind that no job can use."""

from __future__ import annotations

import re

from ..errors import ComfyRemoteError

__all__ = ["NOT_STARTED", "needs_fresh_engine"]

NOT_STARTED = "engine_not_started"
"""In the details of an error: the engine ended before it was ready."""

# After any of these the process's CUDA context is lost: every later call fails the same way
# (NVIDIA, CUDA Runtime API, cudaError_t: "process must be terminated and relaunched"), or the
# GPU itself is.
_LOST_CONTEXT = re.compile(
    r"illegal memory access|device-side assert|unspecified launch failure|misaligned address"
    r"|illegal instruction was encountered|hardware stack error|invalid program counter"
    r"|launch timed out and was terminated|uncorrectable (?:ECC|NVLink) error"
    r"|No CUDA GPUs are available|CUDA unknown error|CUDA driver error: unknown error"
    r"|GPU is lost|has fallen off the bus|CUDA error: unknown error",
    re.IGNORECASE,
)


def needs_fresh_engine(error: ComfyRemoteError) -> bool:
    """Whether the error says that the engine cannot be started, or has lost its CUDA context.

    The latter is read from what the node raised, not from the engine's log, which may tell of
    older ones.
    """
    if error.details.get(NOT_STARTED):
        return True
    said = f"{error.message}\n{error.details.get('traceback', '')}"
    return _LOST_CONTEXT.search(said) is not None

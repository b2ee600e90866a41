"""Run ComfyUI workflows on a GPU elsewhere.

The public face of the library::

    import comfy_remote

    for output in comfy_remote.run("workflow.json", "runpod:abc123"):
        output.save("output")

Names are loaded when they are first used, so that the command line can show its help without
importing an HTTP stack.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .errors import ComfyRemoteError
    from .jobs.client import Client, resume
    from .jobs.job import Job
    from .jobs.output import Output
    from .jobs.record import Record
    from .jobs.run import run


__all__ = ["Client", "ComfyRemoteError", "Job", "Output", "Record", "__version__", "resume", "run"]

_HOMES = {
    "Client": ".jobs.client",
    "ComfyRemoteError": ".errors",
    "Job": ".jobs.job",
    "Output": ".jobs.output",
    "Record": ".jobs.record",
    "resume": ".jobs.client",
    "run": ".jobs.run",
}


def __getattr__(name: str) -> object:
    if home := _HOMES.get(name):
        return getattr(import_module(home, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""A workflow as a service: an HTTP API whose calls run on a target. See docs/service.md.

`ServedWorkflow` is what is called, `Calls` runs and keeps the calls, `ServiceServer` answers.
"""

from .calls import Calls
from .server import ServiceServer
from .workflow import ServedWorkflow

__all__ = ["Calls", "ServedWorkflow", "ServiceServer"]

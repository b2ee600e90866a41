"""A workflow as a service: an HTTP API whose calls run on a target. See docs/service.md.

`ServedWorkflow` is what is called, `Calls` runs and keeps the calls, `ServiceServer` answers.
"""

from ..calls.workflow import ServedWorkflow
from .calls import Calls
from .server import ServiceServer

__all__ = ["Calls", "ServedWorkflow", "ServiceServer"]

"""A workflow as a service: an HTTP API whose calls run on a target. See docs/service.md.

`Calls` runs and keeps the calls of a `calls.workflow.CallableWorkflow`, `ServiceServer` answers.
"""

from .calls import Calls
from .server import ServiceServer

__all__ = ["Calls", "ServiceServer"]

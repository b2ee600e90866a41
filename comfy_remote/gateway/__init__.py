"""RunPod's endpoint API on one machine: a job queue over HTTP, with workers behind it.

`server.GatewayServer` is the way in. Below it, from the inside out: `records` (which jobs are
remembered), `queue` (their states, and who runs what), `store` (inputs, results and outputs as
files), `endpoint` (queue and store as one), `client_routes` and `worker_routes` (HTTP), `access`
(who may ask), and the two kinds of worker, `local_worker` and `sdk_worker`.
"""

from .limits import GatewayLimits
from .server import GatewayServer

__all__ = ["GatewayLimits", "GatewayServer"]

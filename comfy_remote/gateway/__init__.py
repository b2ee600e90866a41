"""RunPod's endpoint API on one machine: a durable job queue over HTTP, with workers behind it.

`server.GatewayServer` is the way in. Below it, from the inside out:

- `job`, `records`: a job, and those in memory; `placing`, `needs`: which of them a worker gets
- `journal`, `files`: jobs and large contents on disk
- `moves`, `ends`, `worker_side`, `queue`: a job's states, and who runs what
- `workers`: which workers there are
- `endpoint`: queue and files as one
- `client_routes`, `upload_routes`, `worker_routes`, `joined_routes`: HTTP; `access`: who may ask
- `local_worker`, `sdk_worker`, `joined`: three kinds of worker
- `seen`: a page, metrics and a log of what happens
"""

from .limits import GatewayLimits
from .server import GatewayServer

__all__ = ["GatewayLimits", "GatewayServer"]

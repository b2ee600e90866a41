"""The two kinds of actors, as Ray makes them: on a machine of the cluster, from plain texts."""

from __future__ import annotations

import logging

from ..config.log import log_to_stderr
from .cluster import Cluster
from .head import FleetHead
from .worker import FleetWorker

__all__ = ["HeadActor", "WorkerActor"]

_LOG_FORM = "%(asctime)s %(message)s"


class WorkerActor(FleetWorker):
    """A `FleetWorker` that Ray has placed."""

    def __init__(self, settings: str, version: str) -> None:
        log_to_stderr(logging.INFO, _LOG_FORM)
        cluster = Cluster.here()
        node = cluster.own_node()
        super().__init__(
            settings,
            version,
            node=node,
            gpus=cluster.own_gpus(),
            is_member=lambda: any(one.id == node and one.alive for one in cluster.nodes()),
        )


class HeadActor(FleetHead):
    """A `FleetHead` that Ray has placed, on the head of the cluster."""

    def __init__(self, settings: str, version: str) -> None:
        log_to_stderr(logging.INFO, _LOG_FORM)
        cluster = Cluster.here()
        super().__init__(settings, version, cluster, own_id=cluster.own_id())

"""A Ray cluster of several nodes on this machine, in a process of its own.

Ray reads its token's settings when it is imported, and is one for a process. So tests talk to this
one: it writes the address as JSON, and after each line that it reads (``add GPUS HOME``,
``kill NODE``, ``restart-head``, ``list``) the nodes' ids; after ``fleet NAMESPACE`` what
``fleet status --json`` shows, which takes seconds; ``end`` ends it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import ray

MEMORY = 80 * 2**20  # bytes of Ray's store of a node, which a fleet does not use


def main() -> None:
    """Start a head without GPUs, and do what standard input says."""
    # Not the option for it: Ray notes the address in the usual folder, which there may not be.
    os.environ["RAY_TMPDIR"] = sys.argv[1]
    from ray import cluster_utils

    about = {"include_dashboard": False, "object_store_memory": MEMORY, "num_cpus": 0}
    head = {**about, "num_gpus": 0}
    # Typed in part only.
    cluster: Any = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        print(json.dumps(cluster.address), flush=True)
        for line in sys.stdin:
            word, _, rest = line.strip().partition(" ")
            if word == "add":
                gpus, _, home = rest.partition(" ")
                own = {"COMFY_REMOTE_HOME": home}
                cluster.add_node(wait=False, num_gpus=int(gpus), env_vars=own, **about)
            elif word == "kill":
                (node,) = (one for one in cluster.list_all_nodes() if one.node_id == rest)
                cluster.remove_node(node, allow_graceful=False)
            elif word == "restart-head":  # it goes on from its store, if that is on disk
                cluster.head_node.kill_gcs_server()
                cluster.head_node.start_gcs_server()
            elif word == "fleet":
                if not ray.is_initialized():
                    ray.init(address=cluster.address, log_to_driver=False)
                steering: Any = ray.get_actor("head", rest)
                print(ray.get(steering.status.remote(), timeout=60), flush=True)
                continue
            elif word != "list":
                return
            print(json.dumps([one.node_id for one in cluster.list_all_nodes()]), flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()

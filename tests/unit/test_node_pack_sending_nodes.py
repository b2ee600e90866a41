"""Every node of the pack is either known to send something elsewhere, or known not to."""

from __future__ import annotations

import re
from pathlib import Path

import comfy_remote.workflow.interface as interface
from comfy_remote.node_pack.trusted_targets import SENDING_NODES

NODES = Path(__file__).parents[2] / "comfy_remote/node_pack/nodes"
STAY_HERE = {
    *("ComfyRemoteInput", "ComfyRemoteOutput", "ComfyRemoteShown"),
    *("RunPodRemoteTakeImage", "RunPodRemoteCollectImages"),
}


def test_a_new_node_is_put_into_the_table_or_said_to_send_nothing() -> None:
    """A node that sends something and is missing in the table would be sent without a question."""
    texts = [path.read_text(encoding="utf-8") for path in NODES.glob("*.py")]
    named = dict(pair for text in texts for pair in re.findall(r'(?m)^([A-Z]+) = "(\w+)"', text))
    there = {name for text in texts for name in re.findall(r'node_id="?(\w+)"?,', text)}
    there = {named.get(name) or getattr(interface, name, name) for name in there}
    assert there == {*SENDING_NODES, *STAY_HERE}

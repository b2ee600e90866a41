"""Which nodes of a prompt run, and in what order.

ComfyUI starts from the output nodes and runs what these need. A node that feeds no output is
neither run nor checked.

Source of facts: ComfyUI's ``execution.py`` (``validate_prompt``) and ``comfy_execution/graph.py``.
"""

from __future__ import annotations

from ..errors import WorkflowInvalid
from .prompt import Node, Prompt, is_link
from .schema import Schemas

__all__ = ["needed_nodes", "output_nodes", "sources_of"]


def output_nodes(prompt: Prompt, schemas: Schemas | None = None) -> list[str]:
    """The ids of the nodes that a run is started for, in the order of the prompt.

    Args:
        prompt: Where to look.
        schemas: Say which classes are outputs. A node of a class of which they do not, and
            every node where there are no schemas, is an output if no other node is linked to it.
    """
    linked_to = {source for node in prompt.values() for source in sources_of(node)}
    found = []
    for node_id, node in prompt.items():
        schema = schemas.get(node["class_type"]) if schemas is not None else None
        said = schema.output_node if schema is not None else None
        if node_id not in linked_to if said is None else said:
            found.append(node_id)
    return found


def needed_nodes(prompt: Prompt, outputs: list[str]) -> list[str]:
    """The ids of the outputs and of all that they need, each after those it is linked to.

    Raises:
        WorkflowInvalid: The links go round in a circle, or one leads to a node that is not
            there.
    """
    ordered: list[str] = []
    done: set[str] = set()
    # Its own stack: a chain may be longer than Python's.
    for output in outputs:
        if output in done:
            continue
        path = {output: iter(_existing_sources(prompt, output))}
        while path:
            node_id, sources = next(reversed(path.items()))
            source = next((one for one in sources if one not in done), None)
            if source is None:
                del path[node_id]
                done.add(node_id)
                ordered.append(node_id)
            elif source in path:
                around = list(path)
                raise _circle(prompt, [*around[around.index(source) :], source])
            else:
                path[source] = iter(_existing_sources(prompt, source))
    return ordered


def sources_of(node: Node) -> list[str]:
    """The ids that a node is linked to, one for each link."""
    return [str(value[0]) for value in node["inputs"].values() if is_link(value)]


def _existing_sources(prompt: Prompt, node_id: str) -> list[str]:
    sources = sources_of(prompt[node_id])
    for source in sources:
        if source not in prompt:
            raise WorkflowInvalid(
                f"Node {node_id} ({prompt[node_id]['class_type']}) is linked to node {source}, "
                "which is not there.",
                advice="Connect it again in ComfyUI and export the workflow again.",
                details={"node_id": node_id},
            )
    return sources


def _circle(prompt: Prompt, node_ids: list[str]) -> WorkflowInvalid:
    shown = [f"{node_id} ({prompt[node_id]['class_type']})" for node_id in node_ids[:12]]
    return WorkflowInvalid(
        f"The links go round in a circle: {' needs '.join(shown)}.",
        advice="Cut one of these links in ComfyUI.",
        details={"nodes": list(node_ids[:-1])},
    )

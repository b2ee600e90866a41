"""Cuts a prompt at its marked nodes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ...errors import WorkflowInvalid
from ..check.sizes import Pictures
from ..graph import execution_order, output_nodes
from ..output_nodes import ADD_AN_OUTPUT, NO_OUTPUT
from ..prompt import Prompt
from ..schema import Schemas
from .build import build
from .crossing import Values
from .marks import marked_nodes
from .parts import group
from .plan import Cut
from .sides import Surroundings, place

if TYPE_CHECKING:
    from ...media.values import ImageFormat

__all__ = ["cut"]


def cut(
    prompt: Prompt,
    marks: Mapping[str, str],
    schemas: Schemas,
    remote: Mapping[str, Schemas | None],
    *,
    targets: Collection[str] | None = None,
    loaded: Mapping[str, Pictures] | None = None,
    images: ImageFormat = "exact",
) -> Cut:
    """Cut a prompt, so that the marked nodes run elsewhere and the others here.

    Values that can travel (pictures, latents, conditionings, sound, numbers, texts) cross the
    boundary. Nodes that only make objects which cannot (models and their patches) are copied to
    each side that uses them; other nodes that share such an object also run on the marked target.
    The result is that of running the whole in one place. A node that chooses between its inputs
    while it runs (a switch) gets all of those that cross.

    Args:
        prompt: Not changed.
        marks: ``{node id: name of the target}``, see `marks_in`. Marks of missing nodes, and of
            nodes that feed no output, are ignored.
        schemas: The local node classes.
        remote: The node classes of each target in ``marks``; one without them counts as having
            all.
        targets: Output nodes to run it for, as ``partial_execution_targets``; by default all.
        loaded: The pictures that nodes load from files, by node, for the sizes of what crosses.
        images: How pictures cross; see `media.values.encode`. Only "exact" gives the same bits.

    Returns:
        The prompts. If no output needs a marked node, there are no parts, and the local prompt is
        the whole.

    Raises:
        CutImpossible: The target does not have a node that would have to run there, or what
            passes between two targets cannot travel.
        WorkflowInvalid: No node is an output, or the links are broken or form a cycle.
    """
    known = _known(prompt, schemas, remote)
    outputs = output_nodes(prompt, known)
    if targets is not None:
        outputs = [node_id for node_id in outputs if node_id in targets]
    if not outputs:
        raise WorkflowInvalid(
            f"{NO_OUTPUT}.",
            advice=ADD_AN_OUTPUT,
        )
    ordered = execution_order(prompt, outputs)
    marked = marked_nodes(prompt, marks)
    if not any(node_id in marked for node_id in ordered):
        return Cut(prompt, tuple(outputs), (), ())
    needed = set(ordered)
    live = {node_id: node for node_id, node in prompt.items() if node_id in needed}
    values = Values(live, ordered, known, loaded)
    sides = place(Surroundings(live, ordered, values, known, schemas, remote), marked)
    return build(sides, group(sides), outputs, images)


def _known(prompt: Prompt, local: Schemas, remote: Mapping[str, Schemas | None]) -> Schemas:
    """The classes of the prompt's nodes, as those say that have them: this ComfyUI first."""
    having = [local, *(schemas for schemas in remote.values() if schemas is not None)]
    found = {}
    for class_type in {node["class_type"] for node in prompt.values()}:
        documents = (schemas.document(class_type) for schemas in having)
        document = next((one for one in documents if one is not None), None)
        if document is not None:
            found[class_type] = dict(document)
    return Schemas(found, "all sides")

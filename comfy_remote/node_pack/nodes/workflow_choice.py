"""Which workflow the node runs: pasted, in a file, or the graph that it stands in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import ConfigurationError, WorkflowInvalid
from ...targets.kinds import typed_target
from ...targets.runpod.kind import RunPodKind
from ...types import JsonValue
from ...workflow.files import file_below
from ...workflow.graph import execution_order
from ...workflow.json_document import parse_json
from ...workflow.load import LoadedWorkflow, parse_workflow
from ...workflow.prompt import Node, Prompt

__all__ = [
    "EXECUTE",
    "file_in",
    "graph_before",
    "pasted_workflow",
    "refuse_itself",
    "saved_workflow",
    "saved_workflows",
    "target_of",
]

EXECUTE = "RunPodRemoteExecute"
"""The class of the node itself."""

_EXPORT = (
    "Export it from ComfyUI with Workflow > Export (API), in older versions Save (API Format), "
    "and paste all of it."
)


def pasted_workflow(text: str) -> LoadedWorkflow:
    """The workflow that somebody has pasted, in API or UI format.

    Raises:
        WorkflowInvalid: It is no JSON, or no workflow.
    """
    try:
        document = parse_json(text, "workflow_json")
    except WorkflowInvalid as error:
        raise WorkflowInvalid(error.message, advice=_EXPORT) from None
    return parse_workflow(document, "workflow_json")


def saved_workflows(workflows: Path, inputs: Path) -> list[str]:
    """The JSON files that may hold a workflow, sorted: ``portrait.json``, ``video/long.json``.

    Args:
        workflows: Where ComfyUI's editor saves; folders in it are looked into.
        inputs: ComfyUI's input folder, which may be large; only what is directly in it.
    """
    found = [path.relative_to(workflows) for path in workflows.rglob("*.json")]
    found += [path.relative_to(inputs) for path in inputs.glob("*.json")]
    names = {path.as_posix() for path in found if not any(p.startswith(".") for p in path.parts)}
    return sorted(names, key=str.casefold)


def saved_workflow(name: str, folders: Sequence[Path]) -> Path:
    """The file of that name: a workflow, or a picture and the like that ComfyUI saved.

    Raises:
        WorkflowInvalid: None of the folders has it.
    """
    found = file_in(folders, name)
    if found is None:
        raise WorkflowInvalid(
            f"There is no workflow file {name!r}. Looked in: {', '.join(map(str, folders))}.",
            advice="Save the workflow in ComfyUI (Workflow > Save), or put the file into "
            "ComfyUI's input folder.",
        )
    return found


def file_in(folders: Sequence[Path], name: str) -> Path | None:
    """The file of that name in the first folder that has it."""
    found = (file_below(folder, name) for folder in folders)
    return next((path for path in found if path is not None), None)


def graph_before(
    nodes: Mapping[str, Mapping[str, JsonValue]], source: Sequence[JsonValue]
) -> Prompt:
    """The part of the open graph that makes a picture, and a node that saves it.

    Args:
        source: The link to the picture: node id, output.

    Raises:
        WorkflowInvalid: The links form a cycle.
    """
    # ComfyUI keeps notes of its own in the nodes of a running prompt ("is_changed").
    prompt: Prompt = {
        node_id: {"class_type": str(node["class_type"]), "inputs": _mapping(node["inputs"])}
        for node_id, node in nodes.items()
    }
    start = str(source[0])
    wanted = set(execution_order(prompt, [start]))
    part = {node_id: node for node_id, node in prompt.items() if node_id in wanted}
    save: Node = {
        "class_type": "SaveImage",
        "inputs": {"images": [start, source[1]], "filename_prefix": "ComfyRemote"},
    }
    return {**part, _free_id(part): save}


def target_of(wanted: str, environment: Mapping[str, str]) -> str:
    """The target that the node runs on.

    Args:
        wanted: The node's input: a configured name, ``runpod:ENDPOINT``, ``sandbox``, an address,
            or nothing for the endpoint in ``RUNPOD_ENDPOINT_ID``.

    Raises:
        ConfigurationError: The variable is not set.
    """
    wanted = typed_target(wanted)
    runpod = RunPodKind()
    if wanted in ("", runpod.prefix):
        address = runpod.configured_address(environment)
        if address is None:
            raise ConfigurationError(
                "There is no RunPod endpoint: RUNPOD_ENDPOINT_ID is not set.",
                advice="Set RUNPOD_API_KEY and RUNPOD_ENDPOINT_ID in ComfyUI's environment or in "
                "a .env file and start ComfyUI again. The endpoint's id is shown at "
                "https://console.runpod.io/serverless.",
            )
        return address
    return wanted


def refuse_itself(prompt: Prompt) -> None:
    """Check that the workflow does not contain the node that runs it.

    Raises:
        WorkflowInvalid: It does.
    """
    for node_id, node in prompt.items():
        if node["class_type"] == EXECUTE:
            raise WorkflowInvalid(
                "The workflow for RunPod Remote Execute contains this node itself "
                f"(node {node_id}).",
                advice="Give it only what should run on the GPU, without RunPod Remote Execute.",
                details={"node_id": node_id},
            )


def _mapping(value: JsonValue) -> dict[str, JsonValue]:
    return dict(value) if isinstance(value, dict) else {}


def _free_id(prompt: Prompt) -> str:
    number = 1 + max((int(i) for i in prompt if i.isdecimal()), default=0)
    return str(number)

"""Remote API: a service, or a workflow on a target, as one node."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io
from server import PromptServer

from ...calls.address import call_address, service_headers
from ...calls.rest import RestClient
from ...calls.values import ValueForm
from ...calls.workflow import CallableWorkflow
from ...config.settings import Configuration
from ...errors import ConfigurationError, WorkflowInvalid
from ...jobs.client import Client
from ...media.files import private_folder
from ...media.values import DecodedValue
from ...workflow.interface import ANY
from ...workflow.load import LoadedWorkflow, load_workflow
from ..advice import in_page_words
from ..trusted_targets import refuse_own_address
from .comfyui import CATEGORY, NodeWatcher, check_address, type_of_link, workflow_folders
from .remote_call import MOST_DECLARED, RemoteCall, named_values
from .remote_input import optional_text
from .value_objects import ADAPTERS
from .workflow_choice import pasted_workflow, saved_workflow, target_of

__all__ = ["ComfyRemoteNode"]

_TYPES = (
    *(ANY, "IMAGE", "MASK", "LATENT", "CONDITIONING", "AUDIO", "VIDEO", "SIGMAS"),
    *("STRING", "INT", "FLOAT", "BOOLEAN"),
)
_LONGEST = 7 * 24 * 3600


class ComfyRemoteNode(io.ComfyNode):
    """Sends what is connected, and gives what comes back.

    ComfyUI passes on whatever is linked, also to inputs that are not declared: the page adds
    more of them as they are connected, and old workflows have other names for them.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The inputs that workflows have saved; new widgets only ever at the end."""
        return io.Schema(
            node_id="ComfyRemoteNode",
            display_name="Remote API",
            category=CATEGORY,
            description="Sends values to a service (comfy-remote service, a Modal app, any server "
            "of that protocol) and gives its result. With a workflow: runs it on a target.",
            inputs=[
                io.String.Input(
                    "url",
                    default="",
                    tooltip="https://... of the service, or a name from comfy-remote.toml. With a "
                    "workflow: the target. Its key comes from comfy-remote.toml or the variable "
                    "COMFY_REMOTE_TOKEN_HOST, never from here.",
                ),
                io.Float.Input(
                    "request_timeout",
                    default=300.0,
                    min=1.0,
                    max=3600.0,
                    optional=True,
                    tooltip="Seconds that one request may take.",
                ),
                io.Float.Input(
                    "poll_interval",
                    default=1.5,
                    min=0.1,
                    max=120.0,
                    optional=True,
                    tooltip="Seconds between two status requests, unless the service sets them.",
                ),
                optional_text(
                    "keys",
                    "Names of the inputs, in their order: image, prompt. Else they are "
                    "sent as input_0, input_1, ...",
                ),
                optional_text(
                    "output_key",
                    "Which result to give. Empty: the one called result, or the only one.",
                ),
                io.Combo.Input(
                    "output_type",
                    options=list(_TYPES),
                    default=ANY,
                    optional=True,
                    tooltip="What the result has to be; * takes anything.",
                ),
                optional_text(
                    "workflow",
                    "For a target: a saved workflow's name, or a workflow as JSON, with "
                    "Remote Input and Remote Output nodes.",
                ),
                io.Int.Input(
                    "timeout",
                    default=3600,
                    min=0,
                    max=_LONGEST,
                    optional=True,
                    tooltip="Seconds after which the call is cancelled; 0: never.",
                ),
                *(
                    io.AnyType.Input(
                        f"input_{number}", optional=True, tooltip="A value that is sent."
                    )
                    for number in range(MOST_DECLARED)
                ),
            ],
            outputs=[io.AnyType.Output(display_name="result", is_output_list=True)],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
        )

    @classmethod
    @in_page_words
    async def execute(
        cls,
        url: str,
        request_timeout: float = 300.0,
        poll_interval: float = 1.5,
        keys: str = "",
        output_key: str = "",
        output_type: str = ANY,
        workflow: str = "",
        timeout: int = 3600,
        **inputs: object,
    ) -> io.NodeOutput:
        """The result, as a list."""
        unique_id = cls.hidden.unique_id
        wanted = url.strip()
        values = named_values(inputs, _types(cls.hidden.dynprompt, unique_id), keys)
        await check_address(wanted, unique_id, "Remote API")
        remote = RemoteCall(
            wanted,
            NodeWatcher(unique_id),
            timeout or None,
            form=ValueForm(tensors="torch", adapters=ADAPTERS),
            output_key=output_key.strip(),
            output_type=output_type,
        )
        with private_folder(Path(folder_paths.get_temp_directory())) as folder:
            if workflow.strip():
                result = await _on_target(remote, workflow, values, folder)
            else:
                result = await _of_service(remote, request_timeout, poll_interval, values, folder)
        return io.NodeOutput(result.value if result.is_list else [result.value])


async def _of_service(
    remote: RemoteCall,
    request_timeout: float,
    poll_interval: float,
    values: dict[str, DecodedValue],
    folder: Path,
) -> DecodedValue:
    """Call the service that the node names."""
    configuration = Configuration.load()
    address = configuration.service_of(remote.where)
    if not address.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"{address or 'Nothing'} is not a service that Remote API can call.",
            advice="Give an address (https://...). To run a workflow on a target, name one "
            "in `workflow`.",
        )
    remote.where = address
    headers = service_headers(call_address(address), configuration)
    async with RestClient(
        address, headers=headers, request_timeout=request_timeout, poll_interval=poll_interval
    ) as client:
        return await remote.of_service(client, values, folder)


async def _on_target(
    remote: RemoteCall, workflow: str, values: dict[str, DecodedValue], folder: Path
) -> DecodedValue:
    """Run the workflow as a job on the target that the node names."""
    loaded, name = _loaded(workflow)
    if remote.where.startswith(("http://", "https://")):
        call_address(remote.where)
    remote.where = target_of(remote.where, os.environ)
    async with Client(remote.where, on_interrupt=None) as client:
        refuse_own_address(client.target, PromptServer.instance.port)
        called = await CallableWorkflow.of(
            loaded, client, name=name, base=Path(folder_paths.get_input_directory())
        )
        if any(node["class_type"] == "ComfyRemoteNode" for node in called.prompt.values()):
            raise WorkflowInvalid(
                "The workflow that Remote API should run has a Remote API in it.",
                advice="Take it out: on the target, it would call others again.",
            )
        return await remote.of_workflow(client, replace(called, only_base=True), values, folder)


def _loaded(workflow: str) -> tuple[LoadedWorkflow, str]:
    if workflow.lstrip().startswith("{"):
        return pasted_workflow(workflow), "the workflow"
    name = workflow.strip()
    return load_workflow(saved_workflow(name, workflow_folders())), name


def _types(dynprompt: Any, unique_id: str) -> dict[str, str]:  # ComfyUI's own, without types
    links = dynprompt.get_node(unique_id)["inputs"]
    return {name: type_of_link(dynprompt, link) for name, link in links.items()}

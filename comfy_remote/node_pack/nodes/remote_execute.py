"""RunPod Remote Execute: a whole workflow as one node, on a RunPod endpoint or here."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from ...errors import WorkflowInvalid
from ...jobs.client import Client
from ...jobs.output import Output
from ...media.files import private_folder, sha256_of, subfolder_of
from ...targets.base import InputFile, RunRequest, Target
from ...workflow.change.prepare import Changes, PreparedWorkflow, prepare
from ...workflow.files import file_below, file_uses
from ...workflow.load import LoadedWorkflow, load_workflow
from ...workflow.prompt import Prompt, is_link
from ...workflow.repo_list import without_repo_list
from ...workflow.schema import Schemas
from ..advice import in_page_words
from ..comfyui_host import ComfyUIHost
from ..input_files import InputFiles
from ..known_targets import target_choices
from .comfyui import NodeWatcher, check_address, checked, local_schemas, workflow_folders
from .expansion import expand, nothing_made, sources_in, take_nodes
from .image_inputs import by_number, load_nodes, spread_pictures, with_nodes
from .pixels import as_saved, joined, write_pictures
from .remote_run import RemoteRun, films_of, pictures_of
from .videos import film_of, frames_of, no_film
from .workflow_choice import (
    EXECUTE,
    graph_before,
    pasted_workflow,
    refuse_itself,
    saved_workflow,
    saved_workflows,
    target_of,
)

if TYPE_CHECKING:
    import torch

__all__ = ["RunPodRemoteExecute"]

_log = logging.getLogger(__name__)
_LONGEST = 7 * 24 * 3600


class RunPodRemoteExecute(io.ComfyNode):
    """Runs a workflow elsewhere, or here, and gives its pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The inputs that workflows have saved; new ones only ever at the end."""
        return io.Schema(
            node_id=EXECUTE,
            display_name="RunPod Remote Execute",
            category="RunPod",
            description="Runs a workflow on your RunPod endpoint, or here, and gives its "
            "pictures or its video. Paste a workflow, choose a saved one, or give none: then the "
            "part of this graph that makes input_images runs there.",
            inputs=[
                io.String.Input(
                    "workflow_json",
                    multiline=True,
                    default="",
                    tooltip="A workflow as JSON: Workflow > Export (API), or a saved workflow.",
                ),
                io.Boolean.Input(
                    "enable_remote",
                    default=False,
                    label_on="RunPod",
                    label_off="Local",
                    tooltip="RunPod: on the endpoint. Local: the same workflow here.",
                ),
                io.Image.Input(
                    "input_images",
                    optional=True,
                    lazy=True,
                    tooltip="For the workflow's Load Image nodes. Without a workflow: the "
                    "pictures that are to be made remotely.",
                ),
                io.Combo.Input(
                    "workflow_file",
                    options=["", *saved_workflows(*workflow_folders())],
                    default="",
                    optional=True,
                    tooltip="A saved workflow, instead of a pasted one.",
                ),
                io.Combo.Input(
                    "target",
                    options=["", *target_choices(os.environ)],
                    default="",
                    optional=True,
                    tooltip="Empty: the endpoint in RUNPOD_ENDPOINT_ID. Else one of those in "
                    "comfy-remote.toml, or an address that you have confirmed.",
                ),
                io.Int.Input(
                    "timeout",
                    default=3600,
                    min=0,
                    max=_LONGEST,
                    optional=True,
                    tooltip="Seconds after which the job is cancelled; 0: never.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    tooltip="The pictures; of a workflow that makes a video only, its frames.",
                ),
                io.Video.Output(display_name="video", tooltip="The video, if it makes one."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
            enable_expand=True,
        )

    @classmethod
    def validate_inputs(cls, workflow_file: str | None = "", target: str | None = "") -> bool | str:
        """A file that was saved after the page was loaded is as good as a listed one.

        So is any target, as workflows name them: what it means is found out when it runs.
        """
        del target
        try:
            if workflow_file:
                saved_workflow(workflow_file, workflow_folders())
        except WorkflowInvalid as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, workflow_json: str | None = "", workflow_file: str | None = "", **_: object
    ) -> list[str]:
        """The state of the files that the workflow is in, and that it loads.

        ComfyUI adds the inputs, and what they are linked to.
        """
        try:
            loaded = _given(workflow_json, workflow_file)
        except WorkflowInvalid:
            return []  # `execute` says so
        paths = [
            file_below(folder, workflow_file) for folder in workflow_folders() if workflow_file
        ]
        if loaded is not None and loaded.prompt is not None:
            schemas = local_schemas({node["class_type"] for node in loaded.prompt.values()})
            uses = file_uses(loaded.prompt, schemas)
            paths += [file_below(_input(), use.name) for use in uses]
        return [_state(path) for path in paths if path is not None]

    @classmethod
    def check_lazy_status(
        cls,
        enable_remote: bool,
        workflow_json: str | None = "",
        workflow_file: str | None = "",
        **inputs: object,
    ) -> list[str]:
        """The pictures are made here, unless they are what is to be made remotely."""
        nothing_given = not (workflow_json or "").strip() and not workflow_file
        # ComfyUI gives None for what is linked and not there yet.
        waiting = "input_images" in inputs and inputs["input_images"] is None
        return ["input_images"] if waiting and not (nothing_given and enable_remote) else []

    @classmethod
    @in_page_words
    async def execute(
        cls,
        workflow_json: str,
        enable_remote: bool,
        input_images: torch.Tensor | None = None,
        workflow_file: str = "",
        target: str = "",
        timeout: int = 3600,
    ) -> io.NodeOutput:
        """Give the pictures and the film, or the nodes that make them here."""
        loaded = _given(workflow_json, workflow_file)
        if not enable_remote:
            if loaded is not None:
                return await cls._run_here(loaded, input_images)
            if input_images is None:
                raise _nothing_to_run()
            return io.NodeOutput(as_saved(input_images), no_film())
        if loaded is None:
            loaded, input_images = cls._open_graph(), None
        address = target_of(target, os.environ)
        await check_address(address, cls.hidden.unique_id, "RunPod Remote Execute")
        run = RemoteRun(address, NodeWatcher(cls.hidden.unique_id), timeout or None)
        return await _run_there(run, loaded, input_images, saves=not cls._is_used())

    @classmethod
    def _is_used(cls) -> bool:
        """Whether anything is linked from this node: else what it makes would be lost."""
        nodes = cls.hidden.dynprompt
        inputs = (nodes.get_node(node_id)["inputs"].values() for node_id in nodes.all_node_ids())
        own = cls.hidden.unique_id
        return any(is_link(value) and value[0] == own for values in inputs for value in values)

    @classmethod
    def _open_graph(cls) -> LoadedWorkflow:
        nodes = cls.hidden.dynprompt
        source = nodes.get_node(cls.hidden.unique_id)["inputs"].get("input_images")
        if source is None:
            raise _nothing_to_run()
        prompt = graph_before(
            {node_id: nodes.get_node(node_id) for node_id in nodes.all_node_ids()}, source
        )
        page = cls.hidden.extra_pnginfo
        workflow = page.get("workflow") if isinstance(page, dict) else None
        return LoadedWorkflow(
            "The open graph",
            "workflow in API format",
            prompt,
            workflow if isinstance(workflow, dict) else None,
        )

    @classmethod
    async def _run_here(cls, loaded: LoadedWorkflow, images: torch.Tensor | None) -> io.NodeOutput:
        schemas = local_schemas() if loaded.prompt is None else None
        prompt = by_number(without_repo_list(_prepared(loaded, schemas).prompt))
        refuse_itself(prompt)
        if images is not None:
            prompt, slots = spread_pictures(prompt, len(images))
            prompt = with_nodes(prompt, take_nodes(slots))
        prompt = await checked(prompt)
        classes = {node["class_type"] for node in prompt.values()}
        sources = sources_in(prompt, local_schemas(classes))
        context = get_executing_context()
        # ComfyUI calls a node once for each item of a list.
        call = (context.list_index or 0) if context is not None else 0
        expansion = expand(prompt, sources, images, f"{cls.hidden.unique_id}.{call}.")
        video = expansion.video or no_film()
        return io.NodeOutput(expansion.images, video, expand=expansion.graph)


def _prepared(loaded: LoadedWorkflow, schemas: Schemas | None) -> PreparedWorkflow:
    prepared = prepare(loaded, Changes(), schemas)
    for doubt in prepared.doubts:
        _log.warning("%s", doubt.sentence)
    return prepared


async def _run_there(
    run: RemoteRun, loaded: LoadedWorkflow, images: torch.Tensor | None, *, saves: bool
) -> io.NodeOutput:
    """Args:
    saves: Whether what comes back is saved in ComfyUI's output folder, and shown on the node.
    """
    temporary = Path(folder_paths.get_temp_directory())
    with private_folder(temporary) as folder:
        async with Client(run.where, on_interrupt=None) as client:
            prepared = _prepared(loaded, await _schemas_there(client, loaded))
            prompt = by_number(prepared.prompt)
            refuse_itself(prompt)
            prompt, files = await _with_files(prompt, images, folder, client.target)
            request = RunRequest(str(uuid.uuid4()), prompt, files, prepared.workflow)
            outputs = await run.outputs(client, request)
    pictures, films = pictures_of(outputs, prompt), films_of(outputs, prompt)
    if not (pictures or films):
        raise nothing_made()
    if len(films) > 1:
        run.watcher.log(f"Of {len(films)} videos, the first is given.", "warning")
    shown = await asyncio.to_thread(_saved, [*pictures, *films]) if saves else None
    return await asyncio.to_thread(_values, pictures, films, shown)


def _values(
    pictures: list[Output], films: list[Output], shown: dict[str, object] | None
) -> io.NodeOutput:
    film = film_of(films)
    images = joined([picture.tensor() for picture in pictures]) if pictures else frames_of(film)
    return io.NodeOutput(images, no_film() if film is None else film, ui=shown)


def _saved(outputs: list[Output]) -> dict[str, object]:
    """The files in ComfyUI's output folder, as a node shows them."""
    folder = Path(folder_paths.get_output_directory())
    paths = [output.save(folder).relative_to(folder) for output in outputs]
    return {
        "images": [
            {"filename": path.name, "subfolder": subfolder_of(path), "type": "output"}
            for path in paths
        ],
        "animated": (any(output.kind == "video" for output in outputs),),
    }


async def _with_files(
    prompt: Prompt, images: torch.Tensor | None, folder: Path, target: Target
) -> tuple[Prompt, list[InputFile]]:
    """The prompt as it is sent, and the files that it loads: ours, and those of ComfyUI."""
    slots: list[str] = []
    if images is not None:
        prompt, slots = spread_pictures(prompt, len(images))
    others = {node_id: node for node_id, node in prompt.items() if node_id not in slots}
    schemas = local_schemas({node["class_type"] for node in others.values()})
    changed, files = await InputFiles(ComfyUIHost()).collect(others, target, schemas)
    if images is not None:
        ours = await asyncio.to_thread(_written, images, folder, {file.name for file in files})
        changed.update(load_nodes(slots, [file.name for file in ours]))
        files += ours
    return with_nodes(prompt, changed), files


def _written(images: torch.Tensor, folder: Path, taken: set[str]) -> list[InputFile]:
    """The pictures as files: ``input_0.png``, or another name if that one is taken."""
    files = []
    for path in write_pictures(images, folder):
        digest = sha256_of(path)
        name = path.name if path.name not in taken else f"{digest[:12]}_{path.name}"
        files.append(InputFile(name, path, path.stat().st_size, digest))
    return files


async def _schemas_there(client: Client, loaded: LoadedWorkflow) -> Schemas | None:
    """For converting: what the target says or, where it cannot, what this ComfyUI says."""
    if loaded.prompt is not None:
        return None
    nodes = (await client.target.describe()).nodes
    return local_schemas() if nodes is None else Schemas(nodes, client.target.name)


def _given(workflow_json: str | None, workflow_file: str | None) -> LoadedWorkflow | None:
    """The pasted workflow, else the file's, else ``None``."""
    if workflow_json and workflow_json.strip():
        return pasted_workflow(workflow_json)
    return (
        load_workflow(saved_workflow(workflow_file, workflow_folders())) if workflow_file else None
    )


def _nothing_to_run() -> WorkflowInvalid:
    return WorkflowInvalid(
        "There is nothing to run.",
        advice="Paste a workflow into workflow_json, choose a workflow_file, or connect "
        "input_images: then the part of the graph that makes them runs on RunPod.",
    )


def _input() -> Path:
    return Path(folder_paths.get_input_directory())


def _state(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{path} {status.st_size} {status.st_mtime_ns}"

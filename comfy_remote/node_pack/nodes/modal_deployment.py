"""Modal Deployment: a workflow as an app on Modal."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ...errors import ComfyRemoteError
from ..advice import in_page_words
from .comfyui import CATEGORY, NodeWatcher, local_schemas, workflow_folders
from .modal_run import DeploymentSettings, run_deployment, workflow_at
from .remote_input import optional_text

__all__ = ["ComfyRemoteModalDeployment"]


class ComfyRemoteModalDeployment(io.ComfyNode):
    """Makes a Modal project of a workflow file, and deploys it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """The inputs that workflows have saved; new ones only ever at the end."""
        return io.Schema(
            node_id="ComfyRemoteModalDeployment",
            display_name="Modal Deployment",
            category=CATEGORY,
            description="Makes a Modal project of a workflow file, deploys it on your account, and "
            "gives the address of its API. The target modal:NAME runs workflows there.",
            inputs=[
                io.String.Input(
                    "workflow_path",
                    default="",
                    tooltip="A workflow's file: its path, or its name among the saved workflows.",
                ),
                optional_text(
                    "app_name", "What the app is called; its target is modal:NAME.", "comfy-remote"
                ),
                optional_text(
                    "working_directory",
                    "Where the project's folder is made, in a folder of ComfyUI's or one "
                    "that you allow. Empty: beside the workflow.",
                ),
                optional_text(
                    "extra_pip_requirements",
                    "Python packages for ComfyUI, a line each or with commas between.",
                    multiline=True,
                ),
                optional_text(
                    "extra_system_packages",
                    "Debian packages, a line each or with commas between.",
                    multiline=True,
                ),
                optional_text(
                    "gpu_type",
                    "As Modal calls it: H100, L40S, A10, T4 … none: without a GPU.",
                    "H100",
                ),
                io.Boolean.Input(
                    "deploy", default=True, tooltip="Off: only the project's files are written."
                ),
                _switch("dry_run", "On: nothing is deployed, whatever deploy says."),
                _switch(
                    "clean_build",
                    "Write the project's files again, also those that you have edited.",
                ),
                _switch(
                    "rebuild_modal_app",
                    "Build the whole image again, whatever Modal has in its cache.",
                ),
                _switch(
                    "delete_modal_app", "Stop the app that is deployed now, before the new one is."
                ),
            ],
            outputs=[io.String.Output(display_name="service_url")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, workflow_path: str = "", **_: object) -> str:
        """The state of the workflow's file. ComfyUI adds the inputs."""
        try:
            status = workflow_at(workflow_path, workflow_folders(), _own_folders()).stat()
        except (ComfyRemoteError, OSError):
            return ""  # `execute` says so
        return f"{status.st_size} {status.st_mtime_ns}"

    @classmethod
    @in_page_words
    async def execute(
        cls,
        workflow_path: str,
        app_name: str = "",
        working_directory: str = "",
        extra_pip_requirements: str = "",
        extra_system_packages: str = "",
        gpu_type: str = "",
        deploy: bool = True,
        dry_run: bool = False,
        clean_build: bool = False,
        rebuild_modal_app: bool = False,
        delete_modal_app: bool = False,
    ) -> io.NodeOutput:
        """The service's address; empty where nothing was deployed."""
        settings = DeploymentSettings(
            app_name=app_name or "",
            working_directory=working_directory or "",
            extra_pip_requirements=extra_pip_requirements or "",
            extra_system_packages=extra_system_packages or "",
            gpu_type=gpu_type or "",
            deploy=deploy and not dry_run,
            clean_build=clean_build,
            rebuild_modal_app=rebuild_modal_app,
            delete_modal_app=delete_modal_app,
        )
        workflow = workflow_at(workflow_path, workflow_folders(), _own_folders())
        known = local_schemas()
        done = await run_deployment(
            workflow,
            settings,
            NodeWatcher(cls.hidden.unique_id),
            lambda: known,
            open_folders=(*_own_folders(), Path(folder_paths.get_temp_directory())),
            own_folders=_own_folders(),
        )
        return io.NodeOutput(done.url, ui=ui.PreviewText(done.text))


def _switch(name: str, tooltip: str) -> io.Boolean.Input:
    return io.Boolean.Input(name, default=False, optional=True, tooltip=tooltip)


def _own_folders() -> tuple[Path, ...]:
    """Those of ComfyUI's folders that a workflow may name files in; its routes write there, too."""
    return (
        Path(folder_paths.get_user_directory()),
        Path(folder_paths.get_input_directory()),
        Path(folder_paths.get_output_directory()),
    )

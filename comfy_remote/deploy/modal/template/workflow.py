"""A ComfyUI workflow on Modal, made by `comfy-remote deploy modal`. It is yours to edit.

    modal deploy workflow.py             deploy it (or: comfy-remote deploy modal WORKFLOW)
    modal run workflow.py::models        fetch the models of modal_config.json into their volume
    comfy-remote run WORKFLOW --on modal:APP

prompt.json is the workflow, modal_config.json says what it runs on. What is imported from
comfy_remote below is installed here, and goes into the containers as it is here.
"""

import logging
import uuid
from functools import cached_property
from pathlib import Path

import modal

from comfy_remote.config.log import log_to_stderr
from comfy_remote.deploy.modal.config import ModalConfig
from comfy_remote.deploy.modal.front import serve_front
from comfy_remote.deploy.modal.image import (
    MODELS,
    OUTPUTS,
    comfyui_image,
    front_image,
    with_project,
)
from comfy_remote.deploy.modal.worker import ModalWorker, fetch_models

HERE = Path(__file__).parent
PORT = 8000
CONFIG = ModalConfig.read(HERE / "modal_config.json")

if not modal.is_local():
    # Into `modal app logs`: what ComfyUI and the worker say, and how far downloads are.
    log_to_stderr(logging.INFO, "%(levelname)s %(name)s: %(message)s")

app = modal.App(CONFIG.app_name)
notes = modal.Dict.from_name(f"{CONFIG.app_name}-jobs", create_if_missing=True)
outputs = modal.Volume.from_name(f"{CONFIG.app_name}-outputs", create_if_missing=True)
model_volume = modal.Volume.from_name(CONFIG.models_volume, create_if_missing=True)
secrets = [modal.Secret.from_name(name) for name in CONFIG.secrets]

# More of the image goes between the two: comfyui_image(CONFIG).run_commands("…").
image = with_project(comfyui_image(CONFIG), HERE, pack=True)
light_image = with_project(front_image(), HERE)


@app.cls(
    image=image,
    gpu=CONFIG.gpu_type,
    cpu=CONFIG.cpu,
    memory=CONFIG.memory,
    region=CONFIG.region,
    volumes={MODELS: model_volume, OUTPUTS: outputs},
    secrets=secrets,
    timeout=CONFIG.timeout,
    startup_timeout=900,
    scaledown_window=CONFIG.scaledown_window,
    min_containers=CONFIG.min_containers,
    max_containers=CONFIG.max_containers,
    enable_memory_snapshot=CONFIG.snapshot != "none",
    experimental_options={"enable_gpu_snapshot": True} if CONFIG.snapshot == "gpu" else {},
)
class Workflow:
    """ComfyUI on a GPU, and the worker that drives it; one job at a time."""

    @cached_property
    def worker(self) -> ModalWorker:
        """The container's."""
        return ModalWorker(
            CONFIG,
            notes=notes,
            outputs=outputs,
            outputs_folder=Path(OUTPUTS),
            models=model_volume,
        )

    @modal.enter(snap=CONFIG.snapshot == "gpu")
    async def start(self) -> None:
        """Once a container. With a GPU snapshot, ComfyUI is in the snapshot."""
        await self.worker.ready()

    @modal.method()
    async def run(self, payload: str) -> str:
        """One job: JSON in, JSON out."""
        call_id = modal.current_function_call_id() or f"local-{uuid.uuid4()}"
        return await self.worker.run(call_id, payload)

    @modal.exit()
    def stop(self) -> None:
        """Once a container."""
        self.worker.stop()


# The front: what `modal:APP` talks to, and the workflow's own API if it has Remote Output nodes.
# One container, since that API keeps its calls there; it needs no GPU. Without
# requires_proxy_auth, anybody could use your GPU.
@app.function(image=light_image, timeout=3600, scaledown_window=300, max_containers=1)
@modal.concurrent(max_inputs=200)
@modal.web_server(PORT, startup_timeout=60, requires_proxy_auth=True)
def front() -> None:
    """RunPod's endpoint API at /v2/APP, the workflow's own at /."""
    serve_front(PORT, CONFIG.app_name, Workflow, project=HERE, notes=notes, outputs=outputs)


@app.function(image=image, volumes={MODELS: model_volume}, secrets=secrets, timeout=4 * 3600)
def models() -> list[str]:
    """Fetch the models that are missing; needs no GPU."""
    found = fetch_models(CONFIG, Path(MODELS))
    model_volume.commit()
    return found

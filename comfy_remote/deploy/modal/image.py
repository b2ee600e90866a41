"""What is installed in the containers.

The GPU container has two Pythons: the image's own, in which our worker runs and which Modal's
client uses, and ComfyUI's, which custom nodes may change as they like.

Facts: Modal's images are Debian and its hosts have the GPU's driver
(modal.com/docs/guide/cuda); PyTorch's wheels bring CUDA's libraries. Files that are added last
are not part of the image, so changing them builds nothing.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import modal

from ...errors import ConfigurationError
from .config import CONFIG_FILE, ModalConfig
from .project import INPUT_FOLDER, PROMPT_FILE, input_files

__all__ = [
    "COMFYUI",
    "MODELS",
    "OUTPUTS",
    "PACK_PACKAGES",
    "PYTHON",
    "TORCH",
    "WORKER_PACKAGES",
    "comfyui_image",
    "front_image",
    "with_project",
]

COMFYUI = "/comfyui"
"""Where ComfyUI is in the GPU container."""

MODELS = f"{COMFYUI}/models"
"""Where the models' volume is mounted."""

OUTPUTS = "/outputs"
"""Where the volume for large outputs is mounted."""

PYTHON = "3.12"
"""Of both containers."""

TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
"""Versions that belong together, as in our container image."""

PACK_PACKAGES = (
    "aiohttp>=3.11.8",
    "blake3>=1.0",
    "click>=8.1.7",
    "numpy>=1.25",
    "pillow>=10.3",
    "platformdirs>=4.0",
    "pydantic>=2.7",
    "python-dotenv>=1.0",
    "pyyaml>=6.0",
    "rich>=13.7",
    "tomlkit>=0.12",
)
"""What this package needs, wherever it runs."""

WORKER_PACKAGES = (*PACK_PACKAGES, "boto3>=1.36")
"""What the worker needs besides: a bucket's client."""

# Modal's driver (580) knows CUDA 13.0; below it, ComfyUI's own kernels switch off.
_TORCH_INDEX = "https://download.pytorch.org/whl/cu130"
_COMFYUI_SOURCE = "https://github.com/Comfy-Org/ComfyUI.git"
_PACKAGE = Path(__file__).resolve().parents[2]
_PACK_ENTRY = Path(__file__).with_name("template") / "pack_entry.txt"
_INSTALLER = Path(__file__).resolve().parents[2] / "worker" / "nodes" / "install_custom_nodes.py"
_INSTALLER_THERE = "/opt/install_custom_nodes.py"
_CONSTRAINTS = "/opt/torch.txt"
# What OpenCV, and so every second custom node, does not start without.
_SYSTEM_PACKAGES = ("git", "libgl1", "libglib2.0-0")


def comfyui_image(config: ModalConfig) -> modal.Image:
    """ComfyUI at its release, the custom nodes at their commits, and what our worker needs."""
    environ = {"PYTHONUNBUFFERED": "1", "UV_LINK_MODE": "copy"}
    if config.build_nonce:
        environ["COMFY_REMOTE_BUILD"] = config.build_nonce  # all that follows is built again
    python = f"{COMFYUI}/.venv/bin/python"
    install = f"uv pip install --python {python}"
    release = shlex.quote(f"v{config.comfyui_version}")
    image = (
        modal.Image.debian_slim(python_version=PYTHON)
        .env(environ)
        .apt_install(*_SYSTEM_PACKAGES, *config.extra_system_packages)
        .pip_install("uv")
        .run_commands(
            f"git clone --quiet --depth 1 --branch {release} {_COMFYUI_SOURCE} {COMFYUI}",
            # --seed: some custom nodes call pip.
            f"uv venv --python {PYTHON} --seed {COMFYUI}/.venv",
            f"printf '%s\\n' {_quoted(TORCH)} > {_CONSTRAINTS}",
            f"{install} {_quoted(TORCH)} --index-url {_TORCH_INDEX}",
        )
        # From here on, whatever is installed leaves PyTorch as it is.
        .env({"UV_CONSTRAINT": _CONSTRAINTS, "PIP_CONSTRAINT": _CONSTRAINTS})
        .run_commands(f"{install} -r {COMFYUI}/requirements.txt {_quoted(PACK_PACKAGES)}")
    )
    if config.custom_nodes:
        image = image.add_local_file(_INSTALLER, _INSTALLER_THERE, copy=True)
    for node in config.custom_nodes:  # each a layer: a further one builds none of them again
        image = image.run_commands(
            f"printf '%s\\n' {shlex.quote(node)} | "
            f"{python} {_INSTALLER_THERE} - {COMFYUI}/custom_nodes"
        )
    if config.extra_pip_packages:
        image = image.run_commands(f"{install} {_quoted(config.extra_pip_packages)}")
    return image.pip_install(*WORKER_PACKAGES)


def front_image() -> modal.Image:
    """What the front needs: this package's own dependencies."""
    return modal.Image.debian_slim(python_version=PYTHON).pip_install(*PACK_PACKAGES)


def with_project(image: modal.Image, folder: Path, *, pack: bool = False) -> modal.Image:
    """The image with this package, as it is here, and the project's files.

    Args:
        pack: Whether it has ComfyUI: that gets our node pack, too (Remote Input, Remote Output),
            and an empty path for the volume with its models.

    Raises:
        ConfigurationError: This package is in a folder that is called differently.
    """
    if _PACKAGE.name != "comfy_remote":
        raise ConfigurationError(
            f"The package is in a folder named {_PACKAGE.name}, and would not be found there.",
            advice="Rename the folder to comfy_remote.",
        )
    if pack:
        # Modal mounts a volume on an empty path only. Last: what custom nodes install may put
        # models there, as the Impact Pack does.
        image = image.run_commands(f"rm -rf {MODELS}").env({"HF_HOME": f"{MODELS}/.huggingface"})
    unneeded = ["**/__pycache__", "**/*.pyc"]
    image = image.add_local_dir(_PACKAGE, "/root/comfy_remote", ignore=unneeded)
    for name in (PROMPT_FILE, CONFIG_FILE):
        image = image.add_local_file(folder / name, f"/root/{name}")
    if (inputs := input_files(folder)) is not None:
        image = image.add_local_dir(inputs, f"/root/{INPUT_FOLDER}")
    if not pack:
        return image
    there = f"{COMFYUI}/custom_nodes/comfy-remote"
    return image.add_local_dir(_PACKAGE, f"{there}/comfy_remote", ignore=unneeded).add_local_file(
        _PACK_ENTRY, f"{there}/__init__.py"
    )


def _quoted(words: tuple[str, ...] | list[str]) -> str:
    return " ".join(map(shlex.quote, words))

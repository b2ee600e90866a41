"""Which engine a worker drives: ``auto``, ``sandbox``, a ComfyUI folder, or a URL."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..advice import Hint
from ..errors import ConfigurationError
from ..targets.launch import PACKAGE_PARENT, own_module

__all__ = ["EngineChoice", "choose_engine", "guarded", "has_gpu"]

_GUARD = Path(__file__).with_name("guard.py")

# Of ComfyUI's --verbose.
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# With one of these there is no GPU, or one that torch itself does not know.
_WITHOUT_TORCHS_GPU = {"--cpu", "--directml"}
# With one of these, the user has decided where ComfyUI computes.
_DEVICE_FLAGS = _WITHOUT_TORCHS_GPU | {
    *("--cuda-device", "--default-device", "--gpu-only", "--oneapi-device-selector"),
    *("--highvram", "--lowvram", "--normalvram", "--novram"),
}


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """How to get an engine.

    Attributes:
        name: For people: "ComfyUI in /opt/ComfyUI", "the sandbox", or the URL.
        url: Of an engine that runs already, or the one that ``command`` will listen on;
            ``None`` when the program prints ``{"url": ...}`` itself.
        command: What to start; empty for an engine that runs already.
        cwd: The folder to start it in.
        models: ComfyUI's ``models`` folder, where there is one.
        notes: What was decided on the way, for the log.
        gpu_python: The Python whose torch is to find a GPU; ``None`` where none is expected.
    """

    name: str
    url: str | None = None
    command: tuple[str, ...] = ()
    cwd: Path = Path()
    models: Path | None = None
    notes: tuple[str, ...] = ()
    gpu_python: str | None = None


def choose_engine(choice: str, environ: Mapping[str, str] = os.environ) -> EngineChoice:
    """Find the engine that ``choice`` asks for.

    Args:
        choice: ``auto`` (a ComfyUI from ``COMFYUI_DIR``, ``~/comfy/ComfyUI`` or
            ``~/ComfyUI``, else the sandbox), ``sandbox``, a folder, or a URL.
        environ: ``COMFYUI_DIR``, ``COMFYUI_PYTHON``, ``COMFYUI_ARGS`` and ``COMFY_LOG_LEVEL`` are
            read from it.

    Raises:
        ConfigurationError: The folder is not a ComfyUI, or there is no engine.
    """
    if choice.startswith(("http://", "https://")):
        return EngineChoice(name=choice, url=choice.rstrip("/"))
    if choice == "sandbox":
        return _sandbox()
    if choice != "auto":
        return _comfyui(Path(choice).expanduser(), environ)
    if folder := environ.get("COMFYUI_DIR"):
        return _comfyui(Path(folder).expanduser(), environ)
    home = Path.home()
    for candidate in (home / "comfy" / "ComfyUI", home / "ComfyUI"):
        if _is_comfyui(candidate):
            return _comfyui(candidate, environ)
    return _sandbox("no ComfyUI was found (COMFYUI_DIR names one)")


def _sandbox(*notes: str) -> EngineChoice:
    return EngineChoice(
        name="the sandbox",
        command=guarded(sys.executable, *own_module("sandbox"), "--port", "0"),
        cwd=PACKAGE_PARENT,
        notes=notes,
    )


def _comfyui(folder: Path, environ: Mapping[str, str]) -> EngineChoice:
    folder = folder.resolve()
    if not _is_comfyui(folder):
        raise ConfigurationError(
            f"{folder} is not a ComfyUI: it has no main.py beside a folder comfy.",
            advice=Hint.COMFYUI_FOLDER(),
        )
    arguments = shlex.split(environ.get("COMFYUI_ARGS", ""))
    python = _python_of(folder, environ)
    on_gpu = _WITHOUT_TORCHS_GPU.isdisjoint(a.partition("=")[0] for a in arguments)
    notes = []
    if _DEVICE_FLAGS.isdisjoint(a.partition("=")[0] for a in arguments) and not has_gpu():
        arguments = ["--cpu", *arguments]
        notes.append("no GPU was found: --cpu was added (COMFYUI_ARGS overrides)")
    if not any(a.startswith("--preview-method") for a in arguments):
        arguments = ["--preview-method", "auto", *arguments]
    level = environ.get("COMFY_LOG_LEVEL", "").strip().upper()
    if level and level not in _LOG_LEVELS:
        raise ConfigurationError(
            f"COMFY_LOG_LEVEL is {level}, which is not one of {', '.join(_LOG_LEVELS)}.",
            advice="Set it to one of them, or unset it.",
        )
    if level and not any(a.startswith("--verbose") for a in arguments):
        arguments = ["--verbose", level, *arguments]
    port = _free_port()
    return EngineChoice(
        name=f"ComfyUI in {folder}",
        url=f"http://127.0.0.1:{port}",
        command=guarded(
            python,
            str(folder / "main.py"),
            *("--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"),
            *arguments,
        ),
        cwd=folder,
        models=_models_folder(folder, arguments),
        notes=tuple(notes),
        gpu_python=python if on_gpu else None,
    )


def _models_folder(folder: Path, arguments: Sequence[str]) -> Path:
    """This ComfyUI's models folder, which two of its own arguments may name."""
    named = {"--models-directory": "", "--base-directory": "models"}
    given = [part for argument in arguments for part in argument.split("=", 1)]
    for flag, within in named.items():
        if flag in given[:-1]:
            return (folder / given[given.index(flag) + 1] / within).absolute()
    return folder / "models"


def guarded(python: str, *program: str) -> tuple[str, ...]:
    """The command of a Python program that ends when this process does; see `guard`."""
    return (python, str(_GUARD), str(os.getpid()), *program)


def _is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "comfy").is_dir()


def _python_of(folder: Path, environ: Mapping[str, str]) -> str:
    """``COMFYUI_PYTHON``, else the checkout's own, else ours."""
    if python := environ.get("COMFYUI_PYTHON"):
        return python
    inside = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
    candidates = [folder / venv / inside[0] / inside[1] for venv in (".venv", "venv")]
    candidates += [  # ComfyUI's portable release for Windows
        parent / "python_embeded" / "python.exe" for parent in (folder, folder.parent)
    ]
    return next((str(c) for c in candidates if c.is_file()), sys.executable)


def has_gpu() -> bool:
    """Whether torch may find something faster than the CPU.

    Asked of the system and not of torch, whose import takes seconds at every cold start.
    """
    if sys.platform == "darwin":
        return True
    tools = ("nvidia-smi", "rocm-smi", "rocminfo", "amd-smi", "xpu-smi")
    devices = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    return any(map(shutil.which, tools)) or any(Path(d).exists() for d in devices)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

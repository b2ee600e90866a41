"""Which engine a worker drives: ``auto``, ``sandbox``, a ComfyUI folder, or a URL."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..advice import Hint
from ..errors import ConfigurationError
from ..targets.launch import PACKAGE_PARENT, own_module
from ..wire.installed import InstalledPack
from .nodes.program import ComfyUIProgram

__all__ = [
    "EngineChoice",
    "OneOfSeveral",
    "choose_engine",
    "engine_arguments",
    "free_port",
    "guarded",
    "has_gpu",
    "is_url",
    "trial_command",
]

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
_ADDRESS = {"--listen", "--port", "--auto-launch", "--tls-keyfile", "--tls-certfile"}
# In torch/version.py: `hip: Optional[str] = '6.4…'`.
_FOR_OTHERS = re.compile(r"^(?:hip|rocm|xpu)\b[^=\n]*=\s*['\"]", re.MULTILINE)
# What each of several engines is given for itself, or would share by accident.
_ONE_ENGINES = {
    *("--cuda-device", "--default-device", "--directml", "--oneapi-device-selector"),
    *("--output-directory", "--input-directory", "--temp-directory", "--user-directory"),
    *("--database-url", "--port"),
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
        program: The ComfyUI that is started here, without what we add to its arguments.
        environ: Variables that its process has besides ours.
        node_set: The set of node packs that it is started with; see `nodes.sets`.
        node_packs: The packs in that, by their folders in ``custom_nodes``.
        node_packages: Versions of the Python packages in that, by name.
    """

    name: str
    url: str | None = None
    command: tuple[str, ...] = ()
    cwd: Path = Path()
    models: Path | None = None
    notes: tuple[str, ...] = ()
    gpu_python: str | None = None
    program: ComfyUIProgram | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    node_set: str | None = None
    node_packs: Mapping[str, InstalledPack] = field(default_factory=dict)
    node_packages: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_comfyui(self) -> bool:
        """Whether it is a ComfyUI that is started here."""
        return self.models is not None


@dataclass(frozen=True, slots=True)
class OneOfSeveral:
    """What one of several engines of the same ComfyUI has for itself.

    Attributes:
        name: For people, and for the log: ``gpu0``.
        folder: For ``input``, ``temp`` and ``user``, which exist.
        output: For what its nodes save.
        free_port: Gives a port that none of the others has.
    """

    name: str
    folder: Path
    output: Path
    free_port: Callable[[], int]


def choose_engine(
    choice: str, environ: Mapping[str, str] = os.environ, own: OneOfSeveral | None = None
) -> EngineChoice:
    """Find the engine that ``choice`` asks for.

    Args:
        choice: ``auto`` (a ComfyUI from ``COMFYUI_DIR``, ``~/comfy/ComfyUI`` or
            ``~/ComfyUI``, else the sandbox), ``sandbox``, a folder, or a URL.
        environ: ``COMFYUI_DIR``, ``COMFYUI_PYTHON``, ``COMFYUI_ARGS``, ``COMFY_LOG_LEVEL`` and
            ``COMFY_REMOTE_METADATA`` are read from it.
        own: For a ComfyUI of which several are started, one for each GPU.

    Raises:
        ConfigurationError: The folder is not a ComfyUI, there is no engine, or ``COMFYUI_ARGS``
            has what each of several engines has for itself.
    """
    if is_url(choice):
        return EngineChoice(name=choice, url=choice.rstrip("/"))
    if choice == "sandbox":
        return _sandbox()
    if choice != "auto":
        return _comfyui(Path(choice).expanduser(), environ, own)
    if folder := environ.get("COMFYUI_DIR"):
        return _comfyui(Path(folder).expanduser(), environ, own)
    home = Path.home()
    for candidate in (home / "comfy" / "ComfyUI", home / "ComfyUI"):
        if _is_comfyui(candidate):
            return _comfyui(candidate, environ, own)
    return _sandbox("no ComfyUI was found (COMFYUI_DIR names one)")


def is_url(choice: str) -> bool:
    """Whether that engine runs already."""
    return choice.startswith(("http://", "https://"))


def _sandbox(*notes: str) -> EngineChoice:
    return EngineChoice(
        name="the sandbox",
        command=guarded(sys.executable, *own_module("sandbox"), "--port", "0"),
        cwd=PACKAGE_PARENT,
        notes=notes,
    )


def _comfyui(folder: Path, environ: Mapping[str, str], own: OneOfSeveral | None) -> EngineChoice:
    folder = folder.resolve()
    if not _is_comfyui(folder):
        raise ConfigurationError(
            f"{folder} is not a ComfyUI: it has no main.py beside a folder comfy.",
            advice=Hint.COMFYUI_FOLDER(),
        )
    arguments = engine_arguments(environ.get("COMFYUI_ARGS", ""))
    python = _python_of(folder, environ)
    program = ComfyUIProgram(folder, python, tuple(arguments))
    flags = {argument.partition("=")[0] for argument in arguments}
    on_gpu = _WITHOUT_TORCHS_GPU.isdisjoint(flags)
    notes = []
    if own is not None:
        arguments = [*_own_folders(folder, own, flags), *arguments]
    elif _DEVICE_FLAGS.isdisjoint(flags) and not has_gpu(python):
        arguments = ["--cpu", *arguments]
        notes.append("no GPU was found: --cpu was added (COMFYUI_ARGS overrides)")
        if (folder / "zluda" / "zluda.exe").is_file():
            notes.append(
                "this ComfyUI computes on its GPU where its own comfyui.bat has started it with "
                "ZLUDA: start that, and give its address as the engine"
            )
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
    if _metadata_is_off(environ) and "--disable-metadata" not in arguments:
        arguments = ["--disable-metadata", *arguments]
    port = own.free_port() if own is not None else free_port()
    return EngineChoice(
        name=f"ComfyUI in {folder}" + (f" on {own.name}" if own is not None else ""),
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
        program=program,
    )


def trial_command(
    program: ComfyUIProgram, own: OneOfSeveral, search_paths: Path
) -> tuple[tuple[str, ...], str]:
    """How to start a ComfyUI beside the one that runs, on the CPU; with the URL of it.

    Args:
        own: What it has for itself.
        search_paths: A further file for ``--extra-model-paths-config``.
    """
    port = str(own.free_port())
    command = guarded(
        program.python,
        str(program.folder / "main.py"),
        *("--listen", "127.0.0.1", "--port", port, "--disable-auto-launch", "--cpu"),
        *_own_folders(program.folder, own, ()),
        *_without(program.arguments, _DEVICE_FLAGS | _ONE_ENGINES | _ADDRESS),
        *("--extra-model-paths-config", str(search_paths)),
    )
    return command, f"http://127.0.0.1:{port}"


def _without(arguments: Sequence[str], flags: Collection[str]) -> list[str]:
    """The arguments without some options and their values."""
    left, skips = list[str](), False
    for word in arguments:
        if word.startswith("--"):
            skips = word.partition("=")[0] in flags
        if not skips:
            left.append(word)
    return left


def _metadata_is_off(environ: Mapping[str, str]) -> bool:
    """Whether saved files are to be without the workflow that made them."""
    wanted = environ.get("COMFY_REMOTE_METADATA", "").strip().lower()
    if wanted not in ("", "true", "false"):
        raise ConfigurationError(
            f"COMFY_REMOTE_METADATA is neither true nor false: {wanted!r}.",
            advice="false leaves the workflow out of the files that ComfyUI saves.",
        )
    return wanted == "false"


def _own_folders(folder: Path, own: OneOfSeveral, flags: Collection[str]) -> list[str]:
    """Arguments for folders of its own: models and custom nodes stay the ComfyUI's."""
    # Python's argparse takes the beginning of an option for it.
    refused = [
        flag
        for flag in flags
        if flag.startswith("--") and any(one.startswith(flag) for one in _ONE_ENGINES)
    ]
    if refused:
        raise ConfigurationError(
            f"COMFYUI_ARGS has {min(refused)}, which differs between the engines of several GPUs.",
            advice=Hint.ONE_ENGINES_ARGUMENT(),
        )
    arguments = [
        *("--output-directory", str(own.output)),
        *("--input-directory", str(own.folder / "input")),
        *("--temp-directory", str(own.folder)),  # it appends "temp"
    ]
    # Both are of 2025. Of two processes on one database, the second one works without.
    with contextlib.suppress(OSError):
        known = (folder / "comfy" / "cli_args.py").read_text(encoding="utf-8", errors="replace")
        if "--user-directory" in known:
            arguments += ["--user-directory", str(own.folder / "user")]
        if "--database-url" in known:
            arguments += ["--database-url", f"sqlite:///{own.folder / 'user' / 'comfyui.db'}"]
    return arguments


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


def has_gpu(python: str, platform: str = sys.platform) -> bool:
    """Whether torch may find something faster than the CPU.

    Asked of the system and not of torch, whose import takes seconds at every cold start. Windows'
    drivers of AMD and Intel bring no tool: there, a torch that was built for them says it.

    Args:
        python: The engine's.
    """
    if platform == "darwin":
        return True
    tools = ("nvidia-smi", "rocm-smi", "rocminfo", "amd-smi", "xpu-smi")
    devices = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    if any(map(shutil.which, tools)) or any(Path(d).exists() for d in devices):
        return True
    return platform == "win32" and _is_built_for_others(Path(shutil.which(python) or python))


def _is_built_for_others(python: Path) -> bool:
    """Whether that Python's torch was built for AMD or Intel: its ``version.py`` says so."""
    for folder in (python.parent, python.parent.parent):  # the portable release's, a venv's
        with contextlib.suppress(OSError):
            version = folder / "Lib" / "site-packages" / "torch" / "version.py"
            text = version.read_text(encoding="utf-8", errors="replace")
            return _FOR_OTHERS.search(text) is not None
    return False


def engine_arguments(text: str, *, windows: bool = os.name == "nt") -> list[str]:
    """The arguments in ``COMFYUI_ARGS``, split as a shell does; on Windows, ``\\`` is a letter.

    Raises:
        ConfigurationError: A quotation mark has no partner.
    """
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    if windows:
        lexer.escape = ""
    try:
        return list(lexer)
    except ValueError as error:
        raise ConfigurationError(
            f"COMFYUI_ARGS cannot be split into arguments: {error}.",
            advice="Put quotation marks around an argument with spaces, in pairs.",
        ) from None


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

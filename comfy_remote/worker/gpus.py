"""The GPUs of this machine, and the variables that show a program one of them only.

NVIDIA's are listed by ``nvidia-smi``, in a fraction of a second; others by the torch of the
engine's Python, which takes as long as its import. Where the owner has restricted the GPUs
already (``CUDA_VISIBLE_DEVICES``, as Slurm sets it), only those exist.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ValidationError

from ..advice import Hint
from ..aio import within
from ..config.engine_environment import engine_environment
from ..errors import ConfigurationError

__all__ = ["Gpu", "choose_gpus", "find_gpus", "parse_gpus"]

# A driver that has just been loaded answers after seconds.
_SMI_PATIENCE = 30.0
# Importing torch from a network volume takes its time.
_TORCH_PATIENCE = 180.0
_QUERY = ("--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
_CUDA, _HIP, _ORDER = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
# Unless it says otherwise, CUDA numbers the fastest first, and nvidia-smi by slot.
_BY_SLOT = "PCI_BUS_ID"

_LISTING = """
import json, torch
kind, found = "", []
if torch.cuda.is_available():
    kind = "hip" if torch.version.hip else "cuda"
    module = torch.cuda
elif hasattr(torch, "xpu") and torch.xpu.is_available():
    kind, module = "xpu", torch.xpu
elif torch.backends.mps.is_available():
    kind, found = "mps", [{"name": "Apple's GPU"}]
if not found and kind:
    for number in range(module.device_count()):
        device = module.get_device_properties(number)
        found.append({"name": device.name, "memory": device.total_memory})
print(json.dumps({"kind": kind, "gpus": found}))
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        index: Its number, as ``nvidia-smi`` or torch counts; as ``CUDA_VISIBLE_DEVICES`` has it
            where that is set.
        name: The product: "NVIDIA GeForce RTX 4090".
        memory: Bytes; ``None`` where it is not known.
        environ: Variables with which a program sees this GPU, and no other.
    """

    index: int
    name: str
    memory: int | None = None
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """``gpu0``: what its engine and its worker are called."""
        return f"gpu{self.index}"

    def __str__(self) -> str:
        # In the unit that these are sold by: a card of "24 GB" has 24 GiB.
        memory = f", {self.memory / 2**30:.0f} GB" if self.memory else ""
        return f"{self.id} ({self.name}{memory})"


def parse_gpus(text: str) -> tuple[int, ...] | None:
    """The numbers in ``0,2``, in that order; ``None`` for ``all``.

    Raises:
        ConfigurationError: It is neither.
    """
    if text.strip().lower() == "all":
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,4}", part) for part in parts):
        raise ConfigurationError(f"{text!r} is not a list of GPUs.", advice=Hint.GPU_NUMBERS())
    numbers = tuple(map(int, parts))
    if twice := {number for number in numbers if numbers.count(number) > 1}:
        raise ConfigurationError(
            f"The list of GPUs {text!r} names GPU {min(twice)} twice.",
            advice="A GPU has one engine: name each once.",
        )
    return numbers


def choose_gpus(wanted: Sequence[int] | None, there: Sequence[Gpu]) -> list[Gpu]:
    """Those of ``there`` that are wanted; all for ``None``.

    Raises:
        ConfigurationError: There is none, or one of the numbers is not there.
    """
    if not there:
        raise ConfigurationError(
            "No GPU was found: neither nvidia-smi nor torch in ComfyUI's Python lists one.",
            advice=Hint.WITHOUT_GPUS(),
        )
    if wanted is None:
        return list(there)
    by_number = {gpu.index: gpu for gpu in there}
    if missing := [number for number in wanted if number not in by_number]:
        raise ConfigurationError(
            f"There is no GPU {', '.join(map(str, missing))} here, but "
            f"{', '.join(map(str, there))}.",
            advice=Hint.GPU_NUMBERS(),
        )
    return [by_number[number] for number in wanted]


async def find_gpus(python: str | None, environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that an engine can use here.

    Args:
        python: The engine's, which is asked where ``nvidia-smi`` does not know; ``None`` to
            leave it at that.
        environ: What the engine will get.

    Raises:
        ConfigurationError: Torch finds several GPUs of a make that cannot be shown one by one.
    """
    found = await _by_nvidia_smi(environ)
    if not found and python is not None:
        found = await _by_torch(python, environ)
    return found


async def _by_nvidia_smi(environ: Mapping[str, str]) -> list[Gpu]:
    program = _nvidia_smi(environ)
    if program is None:
        return []
    said = await _said((program, *_QUERY), environ, _SMI_PATIENCE)
    rows = [[part.strip() for part in line.split(",")] for line in said.splitlines()]
    listed: dict[str, Gpu] = {}
    for index, uuid, *name, mebibytes in (row for row in rows if len(row) >= 4):
        if index.isdecimal():
            # "[N/A]" where GPU and CPU share their memory.
            memory = int(mebibytes) * 2**20 if mebibytes.isdecimal() else None
            listed[uuid] = Gpu(int(index), ",".join(name), memory)
    given = environ.get(_CUDA)
    if given is None:
        return [
            replace(gpu, environ={_CUDA: str(gpu.index), _ORDER: _BY_SLOT})
            for gpu in listed.values()
        ]
    chosen: dict[int, Gpu] = {}
    for part in (part.strip() for part in given.split(",")):
        match = next((gpu for uuid, gpu in listed.items() if _names(part, uuid, gpu)), None)
        if match is None:
            break  # CUDA reads no further than to one that it does not know
        chosen[match.index] = replace(match, environ={_CUDA: part})
    return list(chosen.values())


def _names(part: str, uuid: str, gpu: Gpu) -> bool:
    """Whether a part of ``CUDA_VISIBLE_DEVICES``, a number or how a UUID begins, means that GPU."""
    if part.isdecimal():
        return int(part) == gpu.index
    return part.startswith("GPU-") and uuid.startswith(part)


def _nvidia_smi(environ: Mapping[str, str]) -> str | None:
    if sys.platform != "win32":
        wsl = "/usr/lib/wsl/lib/nvidia-smi"  # not always on PATH there
        return shutil.which("nvidia-smi", path=environ.get("PATH")) or shutil.which(wsl)
    # By its full path: by its name, one in the current folder would be started.
    root = environ.get("SYSTEMROOT", r"C:\Windows")
    files = environ.get("PROGRAMFILES", r"C:\Program Files")
    places = (
        Path(root, "System32", "nvidia-smi.exe"),
        Path(files, "NVIDIA Corporation", "NVSMI", "nvidia-smi.exe"),
    )
    return next((str(path) for path in places if path.is_file()), None)


class _TorchGpu(BaseModel):
    name: str
    memory: int | None = None


class _TorchGpus(BaseModel):
    kind: str = ""
    gpus: list[_TorchGpu] = []


async def _by_torch(python: str, environ: Mapping[str, str]) -> list[Gpu]:
    if _CUDA not in environ:
        environ = {**environ, _ORDER: _BY_SLOT}
    said = await _said((python, "-c", _LISTING), environ, _TORCH_PATIENCE)
    try:
        found = _TorchGpus.model_validate_json((said.strip().splitlines() or ["{}"])[-1])
    except ValidationError:
        return []
    if found.kind not in ("cuda", "hip"):
        if len(found.gpus) > 1:
            raise ConfigurationError(
                f"Torch finds {len(found.gpus)} Intel GPUs; several engines are started for "
                "NVIDIA's and AMD's only.",
                advice=Hint.WITHOUT_GPUS(),
            )
        return [Gpu(number, gpu.name, gpu.memory) for number, gpu in enumerate(found.gpus)]
    hip = found.kind == "hip"
    given = (environ.get(_HIP) if hip else None) or environ.get(_CUDA)
    parts = [part.strip() for part in given.split(",")] if given else []
    gpus = []
    for number, gpu in enumerate(found.gpus):
        shown = parts[number] if number < len(parts) else str(number)
        variables = {_CUDA: shown}
        if hip:
            # Both, as ComfyUI's own --cuda-device does. What ROCR_VISIBLE_DEVICES leaves is
            # what HIP counts.
            variables[_HIP] = shown
        elif _ORDER in environ:
            variables[_ORDER] = environ[_ORDER]
        index = int(shown) if shown.isdecimal() else number
        gpus.append(Gpu(index, gpu.name, gpu.memory, variables))
    return gpus


async def _said(command: Sequence[str], environ: Mapping[str, str], patience: float) -> str:
    """What a program writes to its standard output; "" if it cannot be started.

    Also if it fails: a GPU with a damaged infoROM makes nvidia-smi's exit status 14, and is listed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=engine_environment(environ),  # torch is other people's code, too
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        _log.warning("%s cannot be started: %s", command[0], error.strerror or error)
        return ""
    try:
        said, complaint = await within(process.communicate(), patience)
    except asyncio.TimeoutError:
        _log.warning("%s did not answer within %.0f s", command[0], patience)
        return ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = (complaint or said).decode("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else f"exit status {process.returncode}"
        _log.warning("%s says: %s", command[0], why)
    return said.decode("utf-8", "replace")

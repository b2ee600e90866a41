"""Whether the engine's Python can compute on its GPU: asked of torch, as ComfyUI does.

A machine may list a GPU that no program can use (a driver of the wrong version, a card that has
fallen off its bus). It is checked before a job is taken, so that no job fails because of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from ..aio import within
from ..errors import ConfigurationError, EngineCrashed

__all__ = ["check_gpu"]

# Importing torch from a network volume takes its time.
_PATIENCE = 180.0
_CANNOT = 3

_PROGRAM = f"""
import sys, torch
found = [name for name in ("cuda", "xpu", "mps") if name == "mps"
         and torch.backends.mps.is_available()
         or name != "mps" and hasattr(torch, name) and getattr(torch, name).is_available()]
if not found:
    print("torch finds no GPU")
    sys.exit({_CANNOT})
try:
    torch.zeros(8, device=found[0]).sum().item()
except Exception as error:
    print(f"torch cannot use the GPU: {{type(error).__name__}}: {{error}}")
    sys.exit({_CANNOT})
"""


async def check_gpu(python: str, environ: Mapping[str, str]) -> None:
    """Have the engine's Python compute something on the GPU; `EngineCrashed` if it cannot.

    Raises:
        ConfigurationError: That Python cannot be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            python,
            "-c",
            _PROGRAM,
            env=dict(environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise ConfigurationError(
            f"The engine's Python cannot be started: {python}: {error.strerror or error}.",
            advice="Check COMFYUI_PYTHON.",
        ) from error
    try:
        said, _ = await within(process.communicate(), _PATIENCE)
    except asyncio.TimeoutError:
        raise _unusable(f"torch did not answer within {_PATIENCE:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = said.decode("utf-8", "replace").strip().splitlines()
        raise _unusable(lines[-1] if lines else f"exit status {process.returncode}")


def _unusable(why: str) -> EngineCrashed:
    return EngineCrashed(
        f"This machine's GPU cannot be used: {why}.",
        advice="The worker takes no job here. If this happens on every machine, check the image's "
        "CUDA version against the endpoint's; COMFYUI_ARGS=--cpu runs ComfyUI without a GPU.",
    )

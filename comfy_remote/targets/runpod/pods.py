"""The pods of a RunPod account: by RunPod's REST API where there is a key, else by ``runpodctl``,
which has a key of its own.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import SecretStr

from ...advice import Hint
from ...config.environment import withheld
from ...errors import (
    AuthenticationError,
    ConfigurationError,
    TargetError,
    TargetUnreachable,
)
from ...net.address import COMFYUI_PORT, pod_proxy_url
from ...secrets import secret
from ...units import dollars
from ...wire.runpod_pods import CtlPod, RestPod, RestPodList, ctl_pods, pods_in_table
from .account import ask_account
from .kind import API_KEY_VARIABLE, API_VARIABLE

__all__ = ["Pod", "account_pods"]

_RUNPODCTL_PATIENCE = 30.0
_UNKNOWN_COMMAND = re.compile(rb"unknown (?:command|flag|shorthand)")


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the account.

    Attributes:
        status: ``RUNNING``, ``EXITED`` and so on.
        ports: What it exposes, for example ``8188/http``; ``None`` when that is not known.
        gpu: Name of the GPU, with its number if there are several; empty for none.
        cost: US dollars an hour; ``None`` when it is not known.
        started: When it was started, in seconds since the epoch; ``None`` when it is not known.
        direct: By port in the container, ``HOST:PORT`` that leads there without the proxy.
    """

    id: str
    name: str = ""
    status: str = "RUNNING"
    ports: tuple[str, ...] | None = None
    gpu: str = ""
    cost: float | None = None
    started: float | None = None
    direct: Mapping[int, str] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """Whether its container runs."""
        return self.status.upper() == "RUNNING"

    @property
    def url(self) -> str | None:
        """Where its ComfyUI should be.

        Port 8188 through the proxy, or without it; else the only other port that the proxy
        leads to; ``None`` if it has none of these.
        """
        if self.ports is None or f"{COMFYUI_PORT}/http" in self.ports:
            return pod_proxy_url(self.id)
        if COMFYUI_PORT in self.direct:
            return f"http://{self.direct[COMFYUI_PORT]}"
        http = [port.partition("/")[0] for port in self.ports if port.endswith("/http")]
        return pod_proxy_url(self.id, int(http[0])) if len(http) == 1 else None

    def __str__(self) -> str:
        """For people: ``abc123xyz (training, RTX 4090, $0.44 an hour)``."""
        cost = None if not self.cost else f"{dollars(self.cost)} an hour"
        status = None if self.running else self.status.lower()
        facts = [fact for fact in (self.name, self.gpu, cost, status) if fact]
        return f"{self.id} ({', '.join(facts)})" if facts else self.id


async def account_pods(environment: Mapping[str, str] = os.environ) -> list[Pod]:
    """The pods of the account, as far as they can be listed: ``runpodctl`` lists running ones.

    Raises:
        ConfigurationError: There is neither a key nor ``runpodctl``.
        AuthenticationError: RunPod refuses the key.
        TargetError: RunPod could not be asked, or its answer is not understood.
    """
    key = secret(API_KEY_VARIABLE, environment)
    if key is not None:
        return await _from_rest(key, environment)
    program = shutil.which("runpodctl", path=environment.get("PATH"))
    if program is not None:
        return await asyncio.to_thread(_from_runpodctl, program, environment)
    if refused := withheld([API_KEY_VARIABLE], environment):
        raise refused
    raise ConfigurationError(
        "No pod is named, and there is no way to look for one: RUNPOD_API_KEY is not set, and "
        "runpodctl is not installed.",
        advice=Hint.NAME_A_POD(first=""),
    )


async def _from_rest(key: SecretStr, environment: Mapping[str, str]) -> list[Pod]:
    try:
        answer = await ask_account(key, environment, "v2/pods", RestPodList)
    except AuthenticationError as error:
        raise AuthenticationError(
            "RunPod refused RUNPOD_API_KEY when it was asked for the account's pods.",
            advice=Hint.NAME_A_POD(
                first="Check the key in RunPod's console (Settings > API Keys): it must be allowed "
                "to read pods. Without it:"
            ),
            details=error.details,
        ) from error
    except TargetError as error:
        # What the client says of addresses in general (an endpoint's id) helps nobody here.
        changed = f"Check {API_VARIABLE}." if environment.get(API_VARIABLE) else "Try again later."
        error.advice = Hint.NAME_A_POD(first=changed)
        raise
    return [_rest_pod(pod) for pod in answer.pods]


def _from_runpodctl(program: str, environment: Mapping[str, str]) -> list[Pod]:
    command: tuple[str, ...] = ("pod", "list", "--output", "json")
    done = _run(program, command, environment)
    if old := done.returncode != 0 and _UNKNOWN_COMMAND.search(done.stderr) is not None:
        command = ("get", "pod")  # of version 1
        done = _run(program, command, environment)
    name = f"runpodctl {' '.join(command[:2])}"
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[:300]
        raise TargetError(
            f"{name} failed (status {done.returncode}){f': {said}' if said else ''}.",
            advice=Hint.NAME_A_POD(first="`runpodctl doctor` helps to set it up."),
        )
    try:
        if old:
            pods = pods_in_table(done.stdout.decode("utf-8", "replace"))
        else:
            pods = ctl_pods.validate_json(done.stdout) or []
    except ValueError:  # pydantic's, too
        raise TargetError(
            f"What {name} printed is not understood.",
            advice=Hint.NAME_A_POD(first="Update runpodctl (2.1 or later)."),
        ) from None
    return [_ctl_pod(pod) for pod in pods]


def _run(
    program: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            [program, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_RUNPODCTL_PATIENCE,
            check=False,
            # No window of its own on Windows.
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TargetUnreachable(
            f"runpodctl could not be asked for the account's pods: {error}.",
            advice=Hint.NAME_A_POD(first=""),
        ) from error


def _rest_pod(pod: RestPod) -> Pod:
    mapped = pod.runtime.ports if pod.runtime is not None else []
    return Pod(
        pod.id,
        pod.name,
        pod.status,
        None if pod.ports is None else tuple(pod.ports),
        _gpu(pod.gpu.id, pod.gpu.count) if pod.gpu is not None else "",
        pod.cost if pod.cost is not None and pod.cost >= 0 else None,
        _moment(pod.started),
        {one.private: f"{one.ip}:{one.public}" for one in mapped if one.private and one.public},
    )


def _ctl_pod(pod: CtlPod) -> Pod:
    return Pod(
        pod.id,
        pod.name,
        pod.desired_status,
        None,
        _gpu(pod.gpu_id, pod.gpu_count) if pod.gpu_id else "",
        pod.cost_per_hr,
    )


def _moment(text: str | None) -> float | None:
    """Of RFC 3339, as ``2026-03-13T20:00:00Z``."""
    try:
        moment = datetime.fromisoformat((text or "").replace("Z", "+00:00"))
        return moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError, OSError):
        return None


def _gpu(name: str, count: int) -> str:
    short = name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    return f"{count} x {short}" if count > 1 else short

"""A Ray cluster that takes whoever comes is refused, before anything is sent to it."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from comfy_remote.errors import ConfigurationError
from comfy_remote.fleet.cluster import Cluster

if importlib.util.find_spec("ray") is None:
    pytest.skip("no Ray: pip install comfy-remote[ray]", allow_module_level=True)

OURS = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token"}
REFUSED = (1, b"AuthenticationError: RPC error: InvalidAuthToken: it is missing")
ANSWERS = (0, b"")
DEAD = (1, b"RpcError: failed to connect")


def connect(
    monkeypatch: pytest.MonkeyPatch,
    *,
    nobody: tuple[int, bytes] | None,
    ours: tuple[int, bytes] | None,
) -> str:
    """Why a cluster is refused that answers so; ``None``: not in time."""

    def run(
        command: list[Any], *, env: Mapping[str, str], timeout: float, **_more: object
    ) -> subprocess.CompletedProcess[bytes]:
        is_ours = env["RAY_AUTH_MODE"] == "token"
        assert is_ours == ("RAY_AUTH_TOKEN" in env), "the token goes only where it is asked for"
        answer = ours if is_ours else nobody
        if answer is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, answer[0], answer[1])

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ConfigurationError) as raised:
        Cluster.connect("head:6379", "fleet", OURS)
    return str(raised.value)


def test_a_cluster_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "was started without a token" in connect(monkeypatch, nobody=ANSWERS, ours=ANSWERS)
    assert "was started without a token" in connect(monkeypatch, nobody=ANSWERS, ours=REFUSED)


@pytest.mark.parametrize("nobody", [None, DEAD])
def test_a_cluster_of_which_that_is_not_known_is_refused(
    monkeypatch: pytest.MonkeyPatch, nobody: tuple[int, bytes] | None
) -> None:
    assert "There is no Ray cluster at head:6379" in connect(
        monkeypatch, nobody=nobody, ours=ANSWERS
    )


def test_a_cluster_with_another_token_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said = connect(monkeypatch, nobody=REFUSED, ours=REFUSED)
    assert "does not take this machine's token" in said

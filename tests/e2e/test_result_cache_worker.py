"""The cache of results at an endpoint: each answer says what made it; nobody is woken to ask."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serve_kit import Serve, picture

from comfy_remote import Client
from comfy_remote.targets.base import Health
from comfy_remote.targets.runpod.description import DescriptionCache
from comfy_remote.targets.runpod.kind import EndpointOptions
from comfy_remote.targets.runpod.target import RunPodTarget

pytest.importorskip("runpod")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The base URL of a gateway with a worker on the sandbox."""
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    serve = Serve("--engine", "sandbox", COMFY_REMOTE_TOKEN="", COMFY_REMOTE_HOME=str(tmp_path))
    try:
        yield serve.url()
    finally:
        serve.kill()


class Asleep(RunPodTarget):
    """An endpoint that says that nobody is awake, and starts a worker for each job."""

    async def health(self) -> Health:
        return Health(ready=0, running=0, queued=0)


async def _run(url: str, folder: Path, color: int, kind: type[RunPodTarget] = RunPodTarget) -> bool:
    """Whether it came from the cache."""
    target = kind("local", base_url=url, options=EndpointOptions(memory=folder / "memory"))
    async with Client(target) as client:
        job = await client.submit(picture(color=color), cache="use")
        [output] = await job.outputs()
        assert output.size
        assert job.finished is not None
        return "cache" in job.finished.details


async def test_a_workers_answer_says_what_made_it_and_its_result_is_taken_again(
    server: str, tmp_path: Path
) -> None:
    # Nothing is known of the workers before the first one has answered.
    assert not await _run(server, tmp_path, 1, Asleep)
    assert await _run(server, tmp_path, 1, Asleep)
    assert not await _run(server, tmp_path, 2, Asleep)
    assert await _run(server, tmp_path, 2)
    # What was described is of another worker now: nothing is taken, and the next answer says so.
    [known] = [path for path in (tmp_path / "memory").iterdir() if ".worker" not in path.name]
    text = known.read_text()
    assert '"torch":"none"' in text
    known.write_text(text.replace('"torch":"none"', '"torch":"other"'))
    assert not await _run(server, tmp_path, 1, Asleep)
    assert await _run(server, tmp_path, 1, Asleep)
    # A worker that is awake and idle is asked first.
    known.write_text(text.replace('"torch":"none"', '"torch":"other"'))
    assert await _run(server, tmp_path, 1)
    # What was said long ago counts no more.
    cache = DescriptionCache(tmp_path / "memory", f"{server}/local")

    def aged(hours: float) -> None:
        description = cache.read()
        assert description is not None
        cache.write(description.answer, confirmed=description.confirmed - 3600 * hours)

    aged(40)
    assert not await _run(server, tmp_path, 1, Asleep)
    aged(20)
    assert await _run(server, tmp_path, 1, Asleep)
    aged(20)
    assert await _run(server, tmp_path, 1)
    description = cache.read()
    assert description is not None
    assert time.time() - description.confirmed < 600

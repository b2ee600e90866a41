"""Windows' sharing violations in commands, calls and services.

Each change of each name is refused once, twice or three times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import until
from PIL import Image
from service_kit import Service, workflow
from sharing import sharing_violations

from comfy_remote.calls.rest import RestClient
from comfy_remote.calls.service import received
from comfy_remote.media.values import encode
from comfy_remote.wire.call import CallStatus

TESTS = Path(__file__).parents[1]
each = pytest.mark.parametrize("times", [1, 2, 3])


def command(times: int, folder: Path, module: str, *arguments: str) -> str:
    """Run a command in a process in which names are refused; its output."""
    code = (
        "import tempfile\n"
        "tempfile.gettempdir()  # which tries it with a file, and on Windows again\n"
        "from sharing import sharing_violations\n"
        f"from comfy_remote.cli.{module} import main\n"
        f"with sharing_violations({times}): main()"
    )
    (folder / "temp").mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={
            **os.environ,
            "COMFY_REMOTE_HOME": str(folder / "home"),
            "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
            "TMPDIR": str(folder / "temp"),
            "TEMP": str(folder / "temp"),
        },
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@each
def test_a_command_leaves_outputs_and_its_log(times: int, sandbox_url: str, tmp_path: Path) -> None:
    empty = {"width": 64, "height": 48, "batch_size": 2, "color": 7}
    saving = {"images": ["1", 0], "filename_prefix": "${PROMPT}"}
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "SaveImage", "inputs": saving},
    }
    (tmp_path / "a.json").write_text(json.dumps(prompt))
    arguments = ("--prompt", "a", "--workflow", "a.json", "--pod-url", sandbox_url)
    command(times, tmp_path, "run_remote", *arguments)
    [log] = tmp_path.glob("logs/generations/*.json")
    facts = json.loads(log.read_text(encoding="utf-8"))
    assert facts["state"] == "succeeded"
    saved = [Path(output["path"]) for output in facts["outputs"]]
    assert [path.is_file() for path in saved] == [True, True]
    assert sorted(tmp_path.rglob("*.png")) == sorted(saved)
    left = [path for path in tmp_path.rglob("*") if path.suffix in (".part", ".version", ".lock")]
    assert left == []
    assert list((tmp_path / "temp").glob("comfy-remote-*")) == []


@each
def test_a_call_leaves_its_results(times: int, sandbox_url: str, tmp_path: Path) -> None:
    (tmp_path / "invert.json").write_text(json.dumps(workflow()))
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(tmp_path / "photo.png")
    inputs = ("-i", "image=@photo.png", "-i", "words=hello")
    said = command(times, tmp_path, "main", "call", "invert.json", "--on", sandbox_url, *inputs)
    assert "said: hello" in said.splitlines()
    with Image.open(tmp_path / "output/picture.png") as picture:
        assert picture.getpixel((0, 0)) == (54, 54, 54)
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [
        "picture.png",
        "slowly.png",
    ]
    assert list((tmp_path / "temp").glob("comfy-remote-*")) == []


@each
async def test_a_service_gives_its_results(
    times: int, sandbox_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    image = np.random.default_rng(1).random((2, 400, 400, 3), dtype=np.float32)
    service = Service(tmp_path, sandbox_url)
    with sharing_violations(times) as seen:
        async with (
            service.running() as server,
            RestClient(server.url, poll_interval=0.1) as client,
        ):
            answer = await client.start({"image": encode([image], "IMAGE", as_list=True)})
            last = [one async for one in client.follow(answer)][-1]
            assert last.status is CallStatus.COMPLETED, last.error
            got = await received(client, last.results["picture"], tmp_path / "got")
        await until(lambda: len(list((tmp_path / "results").iterdir())) == 1)
    (inverted,) = got.value  # type: ignore[misc]
    assert np.array_equal(inverted, np.float32(1) - image)
    assert "rename" in {change for change, _ in seen.refused}  # the folder of results

"""The key shows up nowhere: neither in files, output nor processes."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import signal
import sys
import urllib.request
from pathlib import Path

import pytest
from lanes import (
    TOKEN,
    command,
    failing,
    file,
    files_in,
    gateway_lane,
    picture,
    slow_picture,
    start_command,
)
from proxy import Answer, Drop, Fault

from comfy_remote import Record
from comfy_remote.worker.engine import Engine

pytestmark = pytest.mark.usefixtures("home")


async def test_the_key_is_nowhere(
    sandbox_url: str,
    tmp_path: Path,
    out: Path,
    home: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run with a planted key, through success and every kind of error; then look for it."""
    caplog.set_level(logging.DEBUG)
    monitored: list[str] = []
    engine = Engine.named("sandbox")
    async with gateway_lane(await engine.ready(), engine=engine) as lane:
        prompts = {
            "good": {**picture("good"), "9": file("good", 11_000_000)["1"]},
            "slow": slow_picture("slow", steps=15),
            "fails": failing("fails", "error"),
            "memory": failing("memory", "out_of_memory"),
            "unknown": {"1": {"class_type": "Nope", "inputs": {}}},
        }
        faults: list[tuple[str, Fault]] = [
            ("good", Answer(401, b"wrong key")),
            ("good", Answer(500, b"sent: Bearer " + TOKEN.encode())),
            ("good", Answer(404, TOKEN.encode())),
            ("good", Answer(200, b"not JSON but " + TOKEN.encode())),
            ("good", Answer(302, headers={"Location": f"https://x.test/?key={TOKEN}"})),
            ("good", Drop()),
        ]
        for name, prompt in prompts.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(prompt))

        async def run(name: str, number: int) -> int:
            flags = ["--timeout", "1"] if name == "slow" else []
            flags += ["--json"] if number % 2 else []
            ended = await command(
                *(lane, "--verbose", "run", f"{name}.json", "--on", lane.address),
                *("-o", out / str(number), *flags),
                cwd=tmp_path,
            )
            monitored.extend([ended.stdout, ended.stderr])
            return ended.status

        statuses = await asyncio.gather(*(run(name, n) for n, name in enumerate(prompts)))
        assert statuses == [0, 6, 5, 5, 4]
        for number, (name, fault) in enumerate(faults, start=len(prompts)):
            lane.proxy.heal()
            lane.proxy.plan(lane.submit, fault, times=None)
            lane.proxy.plan("/health", Answer(404), times=None)
            assert await run(name, number) == 3
        lane.proxy.heal()
        for arguments in (["jobs", "list"], ["jobs", "list", "--json"]):
            monitored.append((await command(lane, *arguments, cwd=tmp_path)).stdout)
        with Record(home) as record:
            entries = record.newest()
        for entry in entries[::3]:
            for what in ("show", "resume"):
                ended = await command(lane, "jobs", what, entry.id, cwd=tmp_path)
                monitored += [ended.stdout, ended.stderr]
        if sys.platform.startswith("linux"):
            monitored.append(Path(f"/proc/{engine.pid}/environ").read_text())
            monitored.append(Path(f"/proc/{engine.pid}/cmdline").read_text())
        with urllib.request.urlopen(f"{lane.engine.url}/history") as history:
            monitored.append(history.read().decode())
        sent = [seen for seen in lane.proxy.seen if TOKEN in str(seen.headers)]
        assert sent, "the key was used"
        for seen in lane.proxy.seen:
            others = {k: v for k, v in seen.headers.items() if k != "Authorization"}
            monitored += [seen.path, str(others), seen.sent.decode("latin-1")]
            if seen.answer_headers:  # the gateway's answer, not one of our faults
                monitored += [str(seen.answer_headers), seen.got.decode("latin-1")]
    monitored += [caplog.text]
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        monitored += [str(path), path.read_bytes().decode("latin-1")]
    assert any("good" in name for name in files_in(out)), "there were outputs to look into"
    in_base64 = base64.b64encode(TOKEN.encode()).decode()[:-2]
    for text in monitored:
        assert TOKEN not in text, text[max(0, text.find(TOKEN) - 200) :][:400]
        assert in_base64 not in text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
async def test_the_sandbox_of_a_client_has_no_key(tmp_path: Path) -> None:
    """It may outlive the client, with the client's environment."""
    (tmp_path / "workflow.json").write_text(json.dumps(slow_picture("here", steps=300)))
    process = await start_command(
        None, "run", "workflow.json", "--on", "sandbox", "--json", cwd=tmp_path
    )
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if json.loads(line).get("event") == "started":
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    environments = [Path(f"/proc/{child}/environ").read_text() for child in children]
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert environments
    for environment in environments:
        assert "PATH=" in environment
        assert TOKEN not in environment

"""``comfy-remote spend``: what runs have cost, for people at 80 columns and for programs."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from json_lines import check_lines
from owner import configure
from scripted_server import Answer, ScriptedServer

from comfy_remote.cli.main import main
from comfy_remote.events import JobState
from comfy_remote.jobs.record import Record
from comfy_remote.schedule.money import Charge, Price

Spend = Callable[..., str]
PRICE = Price(3.6, "your settings")  # a tenth of a cent a second


@pytest.fixture
def spend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Spend:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("DEBUG", raising=False)

    def command(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["comfy-remote", "spend", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert not ended.value.code, err
        return out + err

    return command


def ran(
    name: str, target: str = "gpu", price: Price | None = PRICE, billed: float | None = None
) -> None:
    charge = Charge(target, price, 600.0, expected=30.0, by_hour=target == "pod")
    with Record() as record:
        record.add(
            name, target=target, source=f"/w/{name[0]}.json", folder=None, prompt={}, charge=charge
        )
        if billed is not None:
            record.state(name, JobState.SUCCEEDED, billed=billed)


@pytest.fixture
def spent(spend: Spend, tmp_path: Path) -> None:
    configure(
        tmp_path / "home",
        "cap_per_day = 5\n[targets.gpu]\ntarget = 'runpod:abc123xyz'\ncap_per_job = 1\n",
    )
    ran("a-1", billed=40.0)
    ran("a-2", billed=20.0)
    ran("b-1")
    ran("b-2", target="modal", price=None, billed=10.0)
    ran("b-3", target="pod", billed=300.0)


@pytest.mark.usefixtures("spent")
def test_what_was_spent_by_target(spend: Spend) -> None:
    out = spend()
    rows = [line.split() for line in out.splitlines()]
    assert ["gpu", "3", "$0.66", "$0.06", "$0.06", "60", "s"] in rows
    assert ["modal", "1", "$0", "10", "s", "1"] in rows
    assert "About $0.66 for 4 runs since " in out
    assert "Of that, $0.60 is reserved for runs that have not ended." in out
    assert "Runs with an estimate: $0.06 estimated, $0.06 by the time they took." in out
    assert "1 run is not included, since no price was known" in out
    assert "The cap of $5.00 a day: $0.66 is used, $4.34 is left." in out
    assert "Billed by the hour: 1 run on pod, 5 min, about $0.30" in out
    assert max(map(len, out.split("About ")[0].splitlines())) <= 80


@pytest.mark.usefixtures("spent")
def test_by_something_else_or_for_one_target(spend: Spend) -> None:
    by_workflow = [line.split()[:3] for line in spend("--by", "workflow").splitlines()]
    assert ["a.json", "2", "$0.06"] in by_workflow
    by_batch = spend("--by", "batch")
    assert "(no batch)" in by_batch
    assert "modal" not in spend("--on", "runpod:abc123xyz")  # an address of the owner's
    assert "for 3 runs" in spend("--on", "gpu", "--by", "day")
    assert "Nothing that is billed by the run" in spend("--since", "2099-01-01")


@pytest.mark.usefixtures("spent")
def test_for_programs(spend: Spend) -> None:
    gpu, modal, pod, total = check_lines(spend("--json").splitlines())
    assert (gpu["name"], gpu["dollars"], gpu["reserved"]) == ("gpu", 0.66, 0.6)
    assert (gpu["estimated"], gpu["compared"], gpu["seconds"]) == (0.06, 0.06, 60.0)
    assert (modal["name"], modal["unpriced"]) == ("modal", 1)
    assert (pod["name"], pod["by_hour"], pod["dollars"]) == ("pod", True, 0.3)
    assert (total["event"], total["runs"], total["dollars"]) == ("spent_total", 4, 0.66)
    [cap] = total["caps"]
    assert (cap["dollars"], cap["span"], cap["target"], cap["used"]) == (5.0, "day", None, 0.66)
    assert cap["where"].startswith("cap_per_day in ")


def test_with_nothing_spent(spend: Spend) -> None:
    assert re.fullmatch(
        r"Nothing that is billed by the run was sent since \d{4}-\d\d-01\.\n", spend()
    )
    assert " was sent to gpu since " in spend("--on", "gpu")
    [total] = check_lines(spend("--json").splitlines())
    assert (total["runs"], total["dollars"], total["caps"]) == (0, 0.0, [])


def test_what_the_cache_saved(spend: Spend) -> None:
    with Record() as record:
        for name, target, saved in (("c-1", "gpu", 0.04), ("c-2", "lan", None)):
            cached = {"key": "k", "job": "a-1", "target": "gpu", "at": 1.0, "saved": saved}
            record.add(name, target=target, source="a", folder=None, prompt={}, cached=cached)
    assert "2 runs came from the cache, about $0.04 saved." in spend()
    assert "1 run came from the cache.\n" in spend("--on", "lan")
    [total] = check_lines(spend("--json").splitlines())
    assert (total["runs"], total["cached"], total["saved"]) == (0, 2, 0.04)


def test_a_route_s_runs_are_counted_at_its_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    configure(tmp_path / "home", "[targets.any]\nroute = ['runpod:a', 'runpod:b']\n")
    monkeypatch.setattr(sys, "argv", ["comfy-remote", "spend", "--on", "any"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "Name one of them: runpod:a, runpod:b." in capsys.readouterr().err


# --- --check ------------------------------------------------------------------------------

THIS_HOUR = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)


def recorded(hours_ago: int, amount: float) -> dict[str, object]:
    """As in the example of "Get serverless billing history" in RunPod's OpenAPI document."""
    start = THIS_HOUR - timedelta(hours=hours_ago)
    return {
        "startTime": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "endTime": f"{start + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
        "serverlessId": "abc123xyz",
        "totalAmount": amount,
    }


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """RunPod, in a thread of its own: the command has its event loop."""
    server = ScriptedServer()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(60)
    monkeypatch.setenv("RUNPOD_API_KEY", "planted-key-51d7e08b42")
    monkeypatch.setenv("RUNPOD_API_BASE_URL", server.url)
    started = datetime.now(timezone.utc) - timedelta(hours=3)
    pod = {
        "id": "7h9k2m4n6pxx",
        "name": "training",
        "status": "RUNNING",
        "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1},
        "cost": 0.44,
        "startedAt": started.isoformat(),
    }
    server.on("GET /v2/pods", Answer({"pods": [pod]}))
    server.on("GET /v2/serverless", Answer({"endpoints": []}))
    server.on(
        "GET /v2/billing/serverless",
        Answer({"records": [recorded(3, 0.52), recorded(2, 0.0), recorded(1, 0.011)]}),
    )
    yield server
    asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(60)
    loop.close()


@pytest.mark.usefixtures("provider")
def test_what_was_billed_beside_what_was_estimated(spend: Spend, tmp_path: Path) -> None:
    configure(tmp_path / "home", "[targets.gpu]\ntarget = 'runpod:abc123xyz'\n")
    began = recorded(3, 0)["startTime"]
    at = datetime.fromisoformat(str(began).replace("Z", "+00:00")).timestamp() + 60
    with Record(now=lambda: at) as record:
        charge = Charge("gpu", Price(3.6, "RunPod"), 600.0)
        record.add("a", target="gpu", source="a.json", folder=None, prompt={}, charge=charge)
        record.state("a", JobState.RUNNING, at=at)
        record.state("a", JobState.SUCCEEDED, run_seconds=400.0, billed=400.0)

    out = spend("--check", "--since", "12h")
    rows = [line.split() for line in out.splitlines()]
    hour = datetime.fromtimestamp(at - 60, timezone.utc).astimezone()
    assert ["gpu", f"{hour:%Y-%m-%d}", f"{hour:%H:%M}", "1"] in [row[:4] for row in rows]
    assert any(row[-3:] == ["$0.40", "$0.52", "+$0.12"] for row in rows)
    assert ["in", "all", "$0.40", "$0.53", "+$0.13"] in rows
    assert "Billed is all that a target cost, including" in out
    assert re.search(
        r"pod:7h9k2m4n6pxx \(training, RTX 4090\) runs for 3\.\d h: about \$1\.3\d, at \$0\.44", out
    )
    # Of many days, one line each.
    days = spend("--check", "--since", "30d")
    assert any(
        row[:1] == ["gpu"] and ":" not in row[2] for row in map(str.split, days.splitlines())
    )

    billed, running = check_lines(spend("--check", "--since", "12h", "--json").splitlines())
    assert (billed["targets"], billed["estimated"], billed["billed"]) == (["gpu"], 0.4, 0.531)
    assert [one["runs"] for one in billed["hours"]] == [1, 0]
    assert (running["target"], running["price_per_hour"]) == ("pod:7h9k2m4n6pxx", 0.44)
    assert running["dollars"] == pytest.approx(1.32, abs=0.05)


def test_a_provider_that_cannot_be_asked(
    provider: ScriptedServer, spend: Spend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(tmp_path / "home", "[targets.gpu]\ntarget = 'runpod:abc123xyz'\n")
    provider.on("GET /v2/billing/serverless", Answer({"detail": "no"}, 403))
    provider.on("GET /v2/pods", Answer({"pods": []}))
    with pytest.raises(AssertionError, match="gpu could not be checked"):
        spend("--check")
    configure(tmp_path / "home", "[targets.lan]\ntarget = 'http://192.168.1.20:8188'\n")
    assert spend("--check") == "No target costs money at a provider that could be asked.\n"


# Caps on the command line

GPU = """
[targets.gpu]
target = "runpod:abc123xyz"
price_per_hour = 3.6
"""


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("RUNPOD_API_KEY", "k" * 20)
    monkeypatch.delenv("RUNPOD_ENDPOINT_BASE_URL", raising=False)
    configure(tmp_path / "home", f"cap_per_month = 0.2\n{GPU}")
    Path("w.json").write_text('{"1": {"class_type": "EmptyImage", "inputs": {}}}')

    def command(*arguments: str) -> tuple[int, str]:
        words = ["comfy-remote", "run", "w.json", "--on", "gpu", *arguments]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out + err

    return command


def test_a_run_over_a_cap_is_refused_before_anything_is_sent(
    run: Callable[..., tuple[int, str]],
) -> None:
    status, out = run("--json")
    assert status == 2
    [error] = check_lines([line for line in out.splitlines() if '"error"' in line])
    assert error["code"] == "spending_cap"
    assert "cap of $0.20 a month" in error["message"]
    assert "--over-cap" in error["advice"]
    status, out = run("--cap", "$0.10")
    assert status == 2
    assert "This run may cost $0.60 on gpu" in out
    with Record() as record:
        assert record.newest() == []
        assert record.ledger.spent(0.0) == []


def test_caps_that_contradict_each_other_or_are_no_amount(
    run: Callable[..., tuple[int, str]],
) -> None:
    status, out = run("--cap", "1", "--over-cap")
    assert (status, "contradict" in out) == (2, True)
    for wrong in ("-1", "nan", "much"):
        assert run("--cap", wrong)[0] == 2

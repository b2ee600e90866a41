"""Joined workers and their gateway, killed at random while jobs run: a short form of
``benchmarks/fleet.py``, all of them processes of the commands.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FLEET = Path(__file__).parents[2] / "benchmarks" / "fleet.py"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.timeout(240)
def test_kills_of_workers_and_gateway_lose_no_job_and_run_none_twice_at_a_time(
    tmp_path: Path,
) -> None:
    plan = {"jobs": 30, "seconds": 1.0, "workers": 3, "kills": 3, "every": 3.0}
    done = subprocess.run(
        [sys.executable, FLEET, tmp_path, json.dumps(plan)],
        capture_output=True,
        text=True,
        timeout=230,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert len(found["kills"]) == 3
    assert "head" in found["kills"]
    assert found["completed"] == 30, found
    wrong = ("failed", "nameless", "unfinished", "resultless", "unsaid")
    assert not any(found[name] for name in wrong), found
    assert not any(found[name] for name in ("too_often", "at_the_same_time", "unrun")), found
    # A worker may have been killed between two jobs; what it had finished is not run again.
    assert len(found["repeated"]) <= 2, found

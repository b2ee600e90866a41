"""Engines to test against: the sandbox always, a real ComfyUI where there is one.

``COMFYUI_DIR`` (and ``COMFYUI_PYTHON``) name a ComfyUI; ``~/comfy/ComfyUI`` and ``~/ComfyUI`` are
tried otherwise. Without one, the tests that need it are skipped with the reason
``skipped: no ComfyUI``. The last line of a run counts what was skipped, by reason.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import (
    COMFYUI_PYTHON,
    find_comfyui,
    free_port,
    real_comfyui,
    start_sandbox,
    stop,
    wait_until_up,
)
from hypothesis import HealthCheck, settings

from comfy_remote.config.folders import home
from comfy_remote.config.log_thread import LogThread
from comfy_remote.net.retry import Backoff
from comfy_remote.secrets import SECRETS

# A busy machine is slow, not wrong.
settings.register_profile("by hand", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A change is judged by what it breaks, not by what chance finds on that day; chance has its
# turn in every run by hand.
settings.register_profile("ci", settings.get_profile("by hand"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "by hand")


# Some images turn this off: then each of the test processes would compile every test and module
# again, which takes longer than to run most of them.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"


def pytest_configure(config: pytest.Config) -> None:
    """Name what the tests of ``tests/live`` are marked with."""
    config.addinivalue_line(
        "markers", "live: uses a real account and spends money (a key, and COMFY_REMOTE_LIVE=spend)"
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """End the run at once if the real ComfyUI's Python lacks what the node pack needs."""
    if hasattr(session.config, "workerinput") or find_comfyui() is None:
        return
    missing = missing_requirements(COMFYUI_PYTHON)
    if missing:
        pytest.exit(
            f"ComfyUI's Python lacks {', '.join(missing)}, which the node pack needs. Run:\n"
            f"  {COMFYUI_PYTHON} -m pip install -r {REQUIREMENTS}",
            returncode=pytest.ExitCode.USAGE_ERROR,
        )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a real ComfyUI before anything of it runs, whatever it does first."""
    if item.get_closest_marker("comfyui") is not None:
        real_comfyui()


def missing_requirements(python: str) -> list[str]:
    """The distributions of ``requirements.txt`` that are not installed for ``python``."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#") and ";" not in line]
    names = [re.split(r"[<>=!~\[ ]", line, maxsplit=1)[0] for line in wanted]
    script = (
        "import json, sys, importlib.metadata as m\n"
        "have = {(d.metadata['Name'] or '').lower().replace('_', '-') for d in m.distributions()}\n"
        "print(json.dumps([name for name in sys.argv[1:] if name not in have]))"
    )
    try:
        answer = subprocess.run(
            [python, "-c", script, *names], cwd="/", capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as problem:
        pytest.exit(
            f"COMFYUI_PYTHON={python} does not run: {problem}",
            returncode=pytest.ExitCode.USAGE_ERROR,
        )
    missing: list[str] = json.loads(answer.stdout)
    return missing


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Say what was skipped and why, in the last line of the run."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if skipped:
        reporter.write_line(skip_summary([str(report.longrepr[2]) for report in skipped]))


def skip_summary(reasons: list[str]) -> str:
    """One line for all skips: ``12 skipped: 10 no ComfyUI, 2 no Chromium``."""
    kinds = Counter(
        reason.removeprefix("Skipped: ").removeprefix("skipped: ") for reason in reasons
    )
    return f"{len(reasons)} skipped: " + ", ".join(
        f"{count} {kind}" for kind, count in kinds.most_common()
    )


@pytest.fixture(scope="session", autouse=True)
def home_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is recorded, and what is said yes to, stays out of the user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMFY_REMOTE_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="session", autouse=True)
def worker_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What workers keep for a while stays out of the user's own cache; no registry is asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMFY_REMOTE_REGISTRY", "off")
        patch.setenv("COMFY_REMOTE_WORKER_DIR", str(tmp_path_factory.mktemp("worker")))
        yield


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is tried again is tried again at once."""
    monkeypatch.setattr(Backoff, "seconds", lambda *_: 0.01)


@pytest.fixture(scope="session")
def sandbox_url() -> Iterator[str]:
    """A sandbox in a process of its own."""
    url, process = start_sandbox()
    try:
        yield url
    finally:
        stop(process)


@pytest.fixture(scope="session")
def gated_url() -> Iterator[str]:
    """A sandbox for jobs that end when a test wants it: see ``gated_sandbox.Gate``."""
    url, process = start_sandbox(program=[str(Path(__file__).with_name("gated_sandbox.py"))])
    try:
        yield url
    finally:
        stop(process)


@pytest.fixture(scope="session")
def comfyui_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real ComfyUI on the CPU, with empty folders of its own."""
    directory = real_comfyui()
    base = tmp_path_factory.mktemp("comfyui")
    port = free_port()
    log = (base / "comfyui.log").open("wb")
    process = subprocess.Popen(
        [
            COMFYUI_PYTHON,
            "main.py",
            "--cpu",
            "--disable-auto-launch",
            "--disable-all-custom-nodes",
            f"--port={port}",
            f"--base-directory={base}",
        ],
        cwd=directory,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(url, process, base / "comfyui.log")
        yield url
    finally:
        stop(process)
        log.close()


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests() -> None:
    """A process notes each secret that it reads; here, each test is one."""
    SECRETS.clear()


@pytest.fixture(autouse=True)
def _environment_is_put_back() -> Iterator[None]:
    """What a command sets in its own process, as ``--config`` does, ends with its test."""
    before = dict(os.environ)
    yield
    before["PYTEST_CURRENT_TEST"] = os.environ.get("PYTEST_CURRENT_TEST", "")  # pytest's own
    for name in {*os.environ} - {*before}:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _no_address_is_remembered(home_folder: None) -> Iterator[None]:
    """What was found at an address holds for that server; another test's may get its port."""
    remembered = home() / "addresses"
    yield
    shutil.rmtree(remembered, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_log_thread_is_left() -> Iterator[None]:
    """A server that a test ran in its own process does not log the next tests' records."""
    yield
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, LogThread)]:
        root.removeHandler(handler)
        handler.close()

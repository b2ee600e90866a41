"""The engine's process: started, watched, started anew, and ended with all it started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from comfy_remote.errors import ConfigurationError, EngineCrashed
from comfy_remote.worker import guard
from comfy_remote.worker.choice import EngineChoice
from comfy_remote.worker.engine import Engine

# Answers /system_stats with its environment, and starts a child that would outlive it.
SERVER = """
import http.server, json, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/exit":
            print("\\x1b[31mlast words\\x1b[0m", flush=True)
            os._exit(7)
        body = json.dumps({"child": child.pid, "environ": dict(os.environ)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
print("a line that is not JSON")
print(json.dumps({"url": f"http://127.0.0.1:{server.server_port}/"}), flush=True)
server.serve_forever()
"""

BROKEN = "import sys; print('no module named torch', file=sys.stderr); sys.exit(3)"


def choice(folder: Path, program: str) -> EngineChoice:
    script = folder / "program.py"
    script.write_text(program)
    command = (sys.executable, str(guard.__file__), str(os.getpid()), str(script))
    return EngineChoice(name="a test server", command=command, cwd=folder)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(
        lambda: choice(tmp_path, SERVER), environ={**os.environ, "RUNPOD_API_KEY": "planted"}
    )
    yield engine
    engine.stop()


async def ask(url: str, path: str = "/system_stats") -> Any:
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        return await response.json()


def alive(pid: int) -> bool:
    if sys.platform == "win32":
        listed = subprocess.run(
            ["tasklist", "/FI", f"PID eq {pid}"], capture_output=True, text=True
        )
        return str(pid) in listed.stdout
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path("/proc").exists()


async def gone(pid: int, patience: float = 10.0) -> bool:
    deadline = time.monotonic() + patience
    while alive(pid) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return not alive(pid)


async def test_ready_once_it_answers_and_without_our_secrets(engine: Engine) -> None:
    engine.start()
    stats = await ask(await engine.ready())
    assert "RUNPOD_API_KEY" not in stats["environ"]
    assert "planted" not in str(stats)
    assert engine.alive


async def test_ready_starts_it_once(engine: Engine) -> None:
    url = await engine.ready()
    pid = engine.pid
    assert await engine.ready() == url
    assert engine.pid == pid


async def test_stop_ends_all_it_has_started(engine: Engine) -> None:
    stats = await ask(await engine.ready())
    pid = engine.pid
    assert pid is not None
    assert alive(stats["child"])
    engine.stop()
    assert await gone(pid)
    assert await gone(stats["child"])


async def test_a_crash_is_noticed_told_and_mended(engine: Engine) -> None:
    url = await engine.ready()
    first = engine.pid
    child = (await ask(url))["child"]
    death = asyncio.create_task(engine.died())
    await asyncio.sleep(0)
    with contextlib.suppress(aiohttp.ClientError):
        await ask(url, "/exit")
    error = await asyncio.wait_for(death, 60)
    assert not engine.alive
    assert "exit status 7" in error.message
    assert "last words" in error.message
    assert "\x1b" not in error.message
    assert "a line that is not JSON" in str(error.details["engine_log"])
    assert await ask(await engine.ready())
    assert engine.pid != first
    assert await gone(child)


async def test_waiting_for_the_death_can_be_given_up(engine: Engine) -> None:
    await engine.ready()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(engine.died(), 0.1)
    assert engine.alive


async def test_jobs_that_watch_for_the_death_leave_no_thread_behind(engine: Engine) -> None:
    await engine.ready()
    before = threading.active_count()
    for _job in range(20):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.died(), 0.001)
    assert threading.active_count() <= before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to tell it by")
async def test_a_killed_engine_is_explained(engine: Engine) -> None:
    await engine.ready()
    death = asyncio.create_task(engine.died())
    await asyncio.sleep(0)
    assert engine.pid is not None
    os.kill(engine.pid, 9)
    assert "out of memory" in (await asyncio.wait_for(death, 60)).advice


async def test_an_engine_that_does_not_start_says_why(tmp_path: Path) -> None:
    programs = [BROKEN, SERVER]
    engine = Engine(lambda: choice(tmp_path, programs.pop(0)))
    try:
        with pytest.raises(EngineCrashed) as caught:
            await asyncio.wait_for(engine.ready(), 60)
        assert "exit status 3" in caught.value.message
        assert "no module named torch" in str(caught.value.details["engine_log"])
        assert await ask(await engine.ready())  # the next job tries again
    finally:
        engine.stop()


async def test_a_comfyui_in_the_wrong_python_is_explained(tmp_path: Path) -> None:
    engine = Engine(lambda: choice(tmp_path, "import no_module_of_that_name"))
    try:
        with pytest.raises(EngineCrashed) as caught:
            await asyncio.wait_for(engine.ready(), 60)
    finally:
        engine.stop()
    assert "COMFYUI_PYTHON" in caught.value.advice


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    missing = EngineChoice(name="x", command=(str(tmp_path / "python"),), cwd=tmp_path)
    with pytest.raises(ConfigurationError, match="could not be started"):
        Engine(lambda: missing).start()


async def test_an_engine_at_a_url_is_left_alone(engine: Engine) -> None:
    url = await engine.ready()
    attached = Engine.named(url)
    assert await attached.ready() == url
    assert attached.alive
    attached.stop()
    assert await ask(url)


async def test_the_engine_ends_when_its_worker_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio, sys
            from pathlib import Path
            sys.path.insert(0, sys.argv[2])
            from test_worker_engine import SERVER, ask, choice
            from comfy_remote.worker.engine import Engine

            async def main():
                engine = Engine(lambda: choice(Path(sys.argv[1]), SERVER))
                stats = await ask(await engine.ready())
                print(engine.pid, stats["child"], flush=True)
                await asyncio.sleep(300)

            asyncio.run(main())
            """
        )
    )
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), str(tmp_path), str(Path(__file__).parent)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert worker.stdout is not None
    engine, child = map(int, (await worker.stdout.readline()).split())
    assert alive(engine)
    worker.kill()
    await worker.wait()
    assert await gone(engine)
    if sys.platform != "win32":  # there the child ends only with `Engine.stop`
        assert await gone(child)


NO_PROMPT_THREAD = """
import json, threading, time
def prompt_worker():
    raise RecursionError("maximum recursion depth exceeded")
print(json.dumps({"url": "http://127.0.0.1:9"}), flush=True)
threading.Thread(target=prompt_worker, daemon=True).start()
time.sleep(300)
"""


async def test_an_engine_without_its_thread_for_prompts_is_ended(tmp_path: Path) -> None:
    engine = Engine(lambda: choice(tmp_path, NO_PROMPT_THREAD))
    try:
        engine.start()
        error = await asyncio.wait_for(engine.died(), 60)
    finally:
        engine.stop()
    assert "lost the thread that runs prompts" in error.message
    assert "maximum recursion depth exceeded" in error.message

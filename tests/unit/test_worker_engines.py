"""The engines of one process: which ones, each with folders of its own, each looked after alone."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import start_sandbox, stop

from comfy_remote.errors import ComfyRemoteError, ConfigurationError, EngineCrashed
from comfy_remote.worker import choice
from comfy_remote.worker import engines as engines_module
from comfy_remote.worker.choice import EngineChoice
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.engines import Engines
from comfy_remote.worker.settings import WorkerSettings

# Says what it was started with, and answers as much as an engine has to.
COMFYUI = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

gpu = os.environ["CUDA_VISIBLE_DEVICES"]
here = Path(__file__).parent
(here / f"started-{gpu}.json").write_text(json.dumps(sys.argv[1:]))
if (here / f"broken-{gpu}").exists():
    sys.exit(f"CUDA error: GPU {gpu} has fallen off the bus")

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Answer).serve_forever()
"""
GPUS = "0, GPU-a, NVIDIA A, 24564\n1, GPU-b, NVIDIA B, 24564\n2, GPU-c, NVIDIA C, 24564\n"


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    folder = tmp_path / "ComfyUI"
    (folder / "comfy").mkdir(parents=True)
    (folder / "comfy" / "cli_args.py").write_text('"--user-directory" "--database-url"')
    (folder / "main.py").write_text(COMFYUI)
    return folder


@pytest.fixture
def environ(tmp_path: Path, comfyui: Path) -> dict[str, str]:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(f"#!{sys.executable}\nprint({GPUS!r}, end='')\n")
    (tools / "nvidia-smi").chmod(0o755)
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    return {"PATH": path, "COMFYUI_DIR": str(comfyui), "COMFYUI_PYTHON": sys.executable}


def started(comfyui: Path, gpu: int) -> dict[str, str]:
    """The arguments of the last start on a GPU; a port differs each time."""
    words = json.loads((comfyui / f"started-{gpu}.json").read_text())
    return dict(itertools.pairwise(words))


async def test_each_gpu_has_an_engine_with_folders_of_its_own(
    tmp_path: Path, comfyui: Path, environ: dict[str, str]
) -> None:
    folder = tmp_path / "engines"
    engines = await Engines.choose(gpus="2,0", folder=folder, environ=environ)
    assert [one.id for one in engines] == ["gpu2", "gpu0"]
    assert str(engines) == "gpu2 (NVIDIA C, 24 GB), gpu0 (NVIDIA A, 24 GB)"
    with engines:
        await engines.ready()
        addresses = {await one.engine.ready() for one in engines}
        assert len(addresses) == 2
        assert {one.engine.models_folder for one in engines} == {comfyui / "models"}
        for number in (0, 2):
            own = folder / f"gpu{number}"
            given = started(comfyui, number)
            assert given["--output-directory"] == str(own / "output")
            assert given["--input-directory"] == str(own / "input")
            assert given["--temp-directory"] == str(own)
            assert given["--user-directory"] == str(own / "user")
            assert given["--database-url"] == f"sqlite:///{own}/user/comfyui.db"
            assert f"http://127.0.0.1:{given['--port']}" in addresses
            assert (own / "user").is_dir()
            assert "--cpu" not in given
    assert not (comfyui / "started-1.json").exists()
    assert all(one.engine.pid is None for one in engines)


async def test_a_comfyui_that_does_not_know_them_gets_no_such_arguments(
    tmp_path: Path, comfyui: Path, environ: dict[str, str]
) -> None:
    (comfyui / "comfy" / "cli_args.py").write_text('"--output-directory"')
    with await Engines.choose(gpus="1", folder=tmp_path / "engines", environ=environ) as engines:
        await engines.ready()
    given = started(comfyui, 1)
    assert "--output-directory" in given
    assert "--user-directory" not in given
    assert "--database-url" not in given


async def test_one_that_does_not_start_leaves_the_others_at_work(
    tmp_path: Path, comfyui: Path, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (comfyui / "broken-1").touch()
    with await Engines.choose(gpus="all", folder=tmp_path / "engines", environ=environ) as engines:
        await engines.ready()
        first, second, third = (one.handler(WorkerSettings()) for one in engines)
        await first.ready()
        await third.ready()
        with pytest.raises(
            EngineCrashed, match=r"on gpu1\) ended before it was ready.* fallen off"
        ):
            await second.ready()
        (comfyui / "broken-1").unlink()
        await second.ready()
    assert "gpu1 | CUDA error: GPU 1 has fallen off the bus" in [
        record.getMessage() for record in caplog.records
    ]


async def test_comfyuis_that_run_already_are_waited_for_and_not_started(tmp_path: Path) -> None:
    urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    assert (await Engines.choose(urls, gpus=None, folder=tmp_path)).attached
    assert not (await Engines.choose(["sandbox", *urls], gpus=None, folder=tmp_path)).attached


async def test_if_none_starts_each_says_why(
    tmp_path: Path, comfyui: Path, environ: dict[str, str]
) -> None:
    for number in (0, 1):
        (comfyui / f"broken-{number}").touch()
    engines = await Engines.choose(gpus="0,1", folder=tmp_path / "engines", environ=environ)
    with engines, pytest.raises(EngineCrashed, match="None of the 2 engines") as raised:
        await engines.ready()
    assert "gpu0: The engine (ComfyUI in " in raised.value.message
    assert "GPU 0 has fallen off the bus" in raised.value.message
    assert "gpu1: The engine (ComfyUI in " in raised.value.message
    assert "GPU 1 has fallen off the bus" in raised.value.message


async def test_an_engine_starts_again_at_a_port_that_no_other_has(
    tmp_path: Path, comfyui: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The system gives a port again until somebody listens on it.
    free, offered = choice.free_port, list[int]()

    def twice() -> int:
        offered.append(free() if len(offered) % 2 == 0 else offered[-1])
        return offered[-1]

    monkeypatch.setattr(engines_module, "free_port", twice)
    with await Engines.choose(gpus="all", folder=tmp_path / "engines", environ=environ) as engines:
        addresses = {await one.engine.ready() for one in engines}
    assert len(addresses) == 3


async def test_what_an_earlier_process_left_there_is_removed(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    folder = tmp_path / "engines"
    left = [folder / "gpu0" / name / "a.png" for name in ("input", "output", "temp")]
    stays = [folder / "gpu0" / name / "a.png" for name in ("user", "kept")]
    for path in (*left, *stays):
        path.parent.mkdir(parents=True)
        path.touch()
    with await Engines.choose(gpus="0", folder=folder, environ=environ):
        assert not any(path.exists() for path in left)
        assert all(path.exists() for path in stays)


async def test_outputs_that_are_to_stay_have_a_folder_that_is_never_emptied(
    tmp_path: Path, comfyui: Path, environ: dict[str, str]
) -> None:
    environ["COMFY_REMOTE_KEEP_OUTPUTS"] = "true"
    with await Engines.choose(gpus="0", folder=tmp_path / "engines", environ=environ) as engines:
        await engines.ready()
    assert started(comfyui, 0)["--output-directory"] == str(tmp_path / "engines" / "gpu0" / "kept")


async def test_two_processes_do_not_share_such_folders(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    folder = tmp_path / "engines"
    first = await Engines.choose(gpus="0", folder=folder, environ=environ)
    with first, pytest.raises(ConfigurationError, match="is in use"):
        await Engines.choose(gpus="1", folder=folder, environ=environ)
    with await Engines.choose(gpus="1", folder=folder, environ=environ) as engines:
        await engines.ready()


@pytest.mark.parametrize(
    "argument",
    ["--cuda-device 1", "--cuda-device=1", "--output-dir /out", "--database-url sqlite://"],
)
async def test_arguments_for_one_engine_are_refused_for_several(
    tmp_path: Path, environ: dict[str, str], argument: str
) -> None:
    environ["COMFYUI_ARGS"] = f"--lowvram {argument}"
    with pytest.raises(ConfigurationError, match=r"COMFYUI_ARGS has --(cuda|output|database)-"):
        await Engines.choose(gpus="0,1", folder=tmp_path / "engines", environ=environ)
    assert not (tmp_path / "engines").exists()


async def test_their_other_arguments_are_shared(
    tmp_path: Path, comfyui: Path, environ: dict[str, str]
) -> None:
    environ["COMFYUI_ARGS"] = "--reserve-vram 2"
    with await Engines.choose(gpus="all", folder=tmp_path / "engines", environ=environ) as engines:
        for one in engines:
            await one.engine.ready()
    assert [started(comfyui, number)["--reserve-vram"] for number in range(3)] == ["2", "2", "2"]


@pytest.mark.parametrize(
    ("choices", "gpus", "why"),
    [
        (["http://127.0.0.1:8188"], "all", "runs already"),
        (["sandbox"], "0", "the sandbox uses none"),
        (["sandbox", "sandbox"], "0", "runs already"),
        (["sandbox", "auto"], None, "auto cannot be one of several"),
        (["http://a:8188", "http://b:8188", "http://a:8188/"], None, "is named twice"),
        ([], "7", "no GPU 7 here, but gpu0"),
        ([], "0,0", "names GPU 0 twice"),
    ],
)
async def test_what_does_not_go_together_is_refused(
    tmp_path: Path, environ: dict[str, str], choices: Sequence[str], gpus: str | None, why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why) as raised:
        await Engines.choose(choices, gpus=gpus, folder=tmp_path / "engines", environ=environ)
    assert raised.value.advice


async def test_gpus_need_a_comfyui(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    del environ["COMFYUI_DIR"]
    with pytest.raises(ConfigurationError, match="no ComfyUI was found"):
        await Engines.choose(gpus="all", folder=tmp_path / "engines", environ=environ)


async def test_several_engines_are_numbered_and_one_is_the_local_one(tmp_path: Path) -> None:
    one = await Engines.choose(["sandbox"], folder=tmp_path / "engines", environ=os.environ)
    assert [(each.id, each.attached) for each in one] == [("local", False)]
    several = await Engines.choose(["sandbox", "sandbox"], folder=tmp_path, environ=os.environ)
    assert [each.id for each in several] == ["engine1", "engine2"]
    with several:
        await several.ready()
        assert len({await each.engine.ready() for each in several}) == 2
    # An engine at an address stays where it is, and nobody need answer there for it to be chosen.
    urls = ["http://127.0.0.1:9", "sandbox"]
    mixed = await Engines.choose(urls, folder=tmp_path, environ=os.environ)
    assert [each.attached for each in mixed] == [True, False]
    with mixed:
        await mixed.ready()
    assert not (tmp_path / "engines").exists()


async def test_two_comfyuis_that_save_to_one_folder_are_refused(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "a", "b")]
    started = [start_sandbox("--directory", str(folder)) for folder in folders]
    try:
        first, second, other = (url for url, _ in started)
        with pytest.raises(ConfigurationError, match=f"{first} and {second} save to one folder"):
            await Engines.choose([first, "sandbox", second], folder=tmp_path)
        for apart in ([first, other], [first, "http://127.0.0.1:9"]):
            assert len(await Engines.choose(apart, folder=tmp_path)) == 2
    finally:
        for _, process in started:
            stop(process)


async def test_the_others_start_once_the_first_one_has(
    tmp_path: Path, comfyui: Path, environ: dict[str, str]
) -> None:
    engines = await Engines.choose(gpus="1,0,2", folder=tmp_path / "engines", environ=environ)
    with engines:
        first, *others = engines
        waiting = [asyncio.create_task(one.engine.ready()) for one in others]
        await asyncio.sleep(0)
        assert first.engine.pid is not None
        assert [one.engine.pid for one in others] == [None, None]
        await first.engine.ready()
        await asyncio.gather(*waiting)


async def test_a_first_one_that_hangs_does_not_hold_up_the_others(tmp_path: Path) -> None:
    hangs = (sys.executable, "-c", "import time; time.sleep(60)")
    first = Engine(lambda: EngineChoice("A", "http://127.0.0.1:9", hangs, tmp_path))
    url, process = start_sandbox()
    second = Engine(lambda: EngineChoice("B", url), after=first, after_patience=0.2)
    starting = asyncio.create_task(first.ready())
    try:
        assert await second.ready() == url
        assert not starting.done()
    finally:
        starting.cancel()
        first.stop()
        stop(process)


async def test_a_program_that_cannot_be_started_ends_the_start_of_all(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    environ["COMFYUI_PYTHON"] = str(tmp_path / "no-python")
    engines = await Engines.choose(gpus="all", folder=tmp_path / "engines", environ=environ)
    with pytest.raises(ComfyRemoteError, match="could not be started"), engines:
        pass
    environ["COMFYUI_PYTHON"] = sys.executable
    with await Engines.choose(gpus="all", folder=tmp_path / "engines", environ=environ) as engines:
        await engines.ready()

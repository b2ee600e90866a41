"""``comfy-remote call`` and ``comfy-remote service``, as somebody types them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from service_kit import workflow

from comfy_remote.media.values import read_value

TOKEN = "a-token-for-these-tests"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "invert.json").write_text(json.dumps(workflow()))
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save("photo.png")
    return tmp_path


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "comfy_remote", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environment},
    )


def test_a_workflow_is_called(here: Path, sandbox_url: str) -> None:
    ended = run(
        *("call", "invert.json", "--on", sandbox_url),
        *("-i", "image=@photo.png", "-i", "words=hello"),
    )
    assert ended.returncode == 0, ended.stderr
    assert "said: hello" in ended.stdout.splitlines()
    with Image.open(here / "output" / "picture.png") as picture:
        assert picture.getpixel((0, 0)) == (54, 54, 54)


def test_a_call_that_fails_shows_what_it_gave_before(here: Path, sandbox_url: str) -> None:
    document = workflow()
    fails = {"image": ["2", 0], "mode": "error", "message": "Out of paint."}
    document["9"] = {"class_type": "SandboxFail", "inputs": fails}
    last = {"value": ["9", 0], "key": "never"}
    document["10"] = {"class_type": "ComfyRemoteOutput", "inputs": last}
    (here / "fails.json").write_text(json.dumps(document))
    ended = run(
        *("call", "fails.json", "--on", sandbox_url),
        *("-i", "image=@photo.png", "-i", "words=hello"),
    )
    assert ended.returncode == 5, ended.stderr
    assert "Out of paint." in ended.stderr
    assert "said: hello" in ended.stdout.splitlines()
    assert (here / "output" / "picture.png").is_file()


def test_value_files_go_in_and_out_exactly(here: Path, sandbox_url: str) -> None:
    first = run(
        *("call", "invert.json", "--on", sandbox_url, "--exact", "--json"),
        *("-i", "image=@photo.png", "-o", "once"),
    )
    assert first.returncode == 0, first.stderr
    last = json.loads(first.stdout.splitlines()[-1])
    assert [Path(one["path"]).name for one in last["outputs"]] == [
        "picture.safetensors",
        "slowly.safetensors",
    ]
    again = run(
        *("call", "invert.json", "--on", sandbox_url, "--exact", "-o", "twice"),
        *("-i", "image=@once/picture.safetensors"),
    )
    assert again.returncode == 0, again.stderr
    (once,), (twice,) = (
        read_value(here / name / "picture.safetensors", tensors="numpy").value  # type: ignore[misc]
        for name in ("once", "twice")
    )
    assert np.array_equal(twice, np.float32(1) - once)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["invert.json"], 4, "image"),
        (["invert.json", "-i", "image=@missing.png"], 4, "no such file"),
        (["invert.json", "-i", "image"], 2, "has no key"),
        (["invert.json", "--load", "gone.png"], 2, "--load gone.png: there is no such file"),
        (["invert.json", "-i", "image=3"], 4, "not of type IMAGE"),
        (["nowhere", "-i", "a=1"], 2, "neither a file nor a name"),
        (["http://example.com/", "-i", "a=1"], 2, "not https"),
        (["http://127.0.0.1:9/", "-i", "a=1"], 3, "could not be reached"),
        (["http://127.0.0.1:9/", "--on", "sandbox"], 2, "Omit --on"),
    ],
)
def test_what_is_wrong_is_said(
    here: Path, sandbox_url: str, arguments: list[str], status: int, words: str
) -> None:
    on = ["--on", sandbox_url] if arguments[0] == "invert.json" else []
    ended = run("call", *arguments, *on)
    assert (ended.returncode, words in ended.stderr) == (status, True), ended.stderr


def test_a_service_is_served_and_called(here: Path, sandbox_url: str) -> None:
    (here / "token.txt").write_text(TOKEN)
    service = subprocess.Popen(
        [
            *(sys.executable, "-m", "comfy_remote", "service", "invert.json"),
            *("--on", sandbox_url, "--port", "0", "--token-file", "token.txt"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    said = ""
    try:
        assert service.stderr is not None
        while "Ctrl-C" not in said:
            line = service.stderr.readline()
            assert line, said
            said += line
        url = re.search(r"http://127\.0\.0\.1:\d+/", said)
        assert url is not None
        assert "image (IMAGE), words (*), steps (INT)" in said
        refused = run("call", url[0], "-i", "image=@photo.png")
        assert refused.returncode == 3, refused.stderr
        ended = run(
            *("call", url[0], "-i", "image=@photo.png", "-i", "words=hello"),
            COMFY_REMOTE_TOKEN_127_0_0_1=TOKEN,
        )
        assert ended.returncode == 0, ended.stderr
        assert "said: hello" in ended.stdout
        assert (here / "output" / "picture.png").is_file()
        assert TOKEN not in said + ended.stdout + ended.stderr
    finally:
        stop = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT)
        service.send_signal(stop)
        assert service.wait(180) == 0

"""A command whose streams, folder or names are unusable: a sentence and the right status."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest

from comfy_remote.cli.convert import matching
from comfy_remote.cli.entry import enter, import_ahead
from comfy_remote.errors import ConfigurationError, WorkflowInvalid
from comfy_remote.jobs.record import Record
from comfy_remote.workflow.prompt import check_texts

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells close streams")
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
PROMPT = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}


def command(home: Path, shell: str) -> subprocess.CompletedProcess[str]:
    """``$C`` in the shell's text is the command."""
    (home / "w.json").write_text(json.dumps(PROMPT))
    environment = {
        **os.environ,
        "COMFY_REMOTE_HOME": str(home / "state"),
        "C": f"{sys.executable} -m comfy_remote",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.run(
        ["sh", "-c", shell], cwd=home, env=environment, capture_output=True, text=True, timeout=60
    )


@needs_full
@pytest.mark.parametrize("words", ["show w.json", "show w.json --json", "--version"])
def test_a_full_disk_behind_standard_output_is_said(tmp_path: Path, words: str) -> None:
    done = command(tmp_path, f"$C {words} >/dev/full")
    assert done.returncode == 7
    assert "Standard output could not be written: No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@needs_full
def test_a_full_disk_behind_standard_error_costs_the_messages_alone(tmp_path: Path) -> None:
    assert command(tmp_path, "$C jobs list 2>/dev/full").returncode == 0
    assert command(tmp_path, "$C show nowhere.json 2>/dev/full").returncode == 4


@posix
@pytest.mark.parametrize(
    ("shell", "status"),
    [
        ("$C jobs list 2>&-", 0),
        ("$C show nowhere.json 2>&-", 4),
        ("$C jobs list >&-", 0),
        ("$C jobs list <&- >&- 2>&-", 0),
    ],
)
def test_closed_streams_change_no_status(tmp_path: Path, shell: str, status: int) -> None:
    done = command(tmp_path, shell)
    assert done.returncode == status
    assert "Traceback" not in done.stderr


@posix
def test_a_deleted_current_folder_is_said(tmp_path: Path) -> None:
    done = command(tmp_path, "mkdir gone; cd gone; rmdir ../gone; $C check ../w.json --on sandbox")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: The current folder was deleted")


@posix
@pytest.mark.parametrize("words", ["show {}", "check {}", "convert {}", "run w.json --input {}"])
def test_a_name_of_5000_letters_is_said(tmp_path: Path, words: str) -> None:
    done = command(tmp_path, f"$C {words.format('a' * 5000)}")
    assert done.returncode == 2
    assert "… is too long for a file name: it has 5000 characters." in done.stderr
    assert len(done.stderr) < 400


@posix
def test_a_limit_of_20_digits_is_refused(tmp_path: Path) -> None:
    done = command(tmp_path, "$C jobs list --limit 99999999999999999999")
    assert done.returncode == 2
    assert "Invalid value for '--limit'" in done.stderr


def test_a_fault_of_ours_and_a_warning_are_clean_as_well(tmp_path: Path) -> None:
    program = """
import logging, os, click
from comfy_remote.cli.entry import enter, start

@click.command()
def fault():
    start()
    said = chr(27) + "[2J " + os.environ["STUDIO_PASS"]
    logging.getLogger("comfy_remote.x").warning("%s stays in storage", said)
    raise RuntimeError(said)

enter(fault, "fault")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "STUDIO_PASS": "planted-odd-value"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 1
    assert "\ufffd[2J [STUDIO_PASS] stays in storage" in done.stderr
    assert "RuntimeError: \ufffd[2J [STUDIO_PASS]" in done.stderr
    assert "planted" not in done.stderr
    assert "\x1b" not in done.stderr


def test_an_error_while_asyncio_is_being_imported_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`import_ahead` does so in a thread: the module is there before what is in it."""

    @click.command()
    def broken() -> None:
        monkeypatch.setitem(sys.modules, "asyncio", ModuleType("asyncio"))
        raise OSError(errno.ENAMETOOLONG, "File name too long", "a" * 5000)

    monkeypatch.setattr("sys.argv", ["broken"])
    with pytest.raises(SystemExit) as ended:
        enter(broken, "broken")
    assert ended.value.code == 2
    assert "is too long for a file name" in capsys.readouterr().err


def test_imports_ahead_until_only_the_certificates_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then a thread reads them beside what the command imports."""
    monkeypatch.setattr("sys.argv", ["comfy-remote", "run", "w.json"])
    monkeypatch.setitem(sys.modules, "aiohttp.connector", ModuleType("aiohttp.connector"))
    monkeypatch.delitem(sys.modules, "aiohttp.connector")  # and it is back after the test
    certificates, steps = threading.Event(), list[str]()

    def imports(name: str) -> None:
        steps.append(name)
        sys.modules["aiohttp.connector"] = ModuleType("aiohttp.connector")
        assert certificates.wait(60)
        steps.append("certificates")

    monkeypatch.setattr("importlib.import_module", imports)
    import_ahead()
    assert steps == ["aiohttp"]
    certificates.set()
    _join_import_ahead()
    assert steps == ["aiohttp", "certificates"]


def test_an_aiohttp_with_other_modules_is_imported_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["comfy-remote", "run", "w.json"])
    monkeypatch.setitem(sys.modules, "aiohttp.connector", ModuleType("aiohttp.connector"))
    monkeypatch.delitem(sys.modules, "aiohttp.connector")  # and it is back after the test
    imported = list[str]()
    monkeypatch.setattr("importlib.import_module", imported.append)
    import_ahead()
    assert imported == ["aiohttp"]


def test_ctrl_c_while_it_imports_ahead_ends_it_like_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("comfy_remote.cli.entry.import_ahead", interrupted)
    with pytest.raises(SystemExit) as ended:
        enter(click.Command("run"), "run", ahead=True)
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")


def _join_import_ahead() -> None:
    for thread in threading.enumerate():
        if thread.name == "import-ahead":
            thread.join(60)


@pytest.mark.parametrize(
    ("node_id", "class_type", "inputs", "says"),
    [
        ("3", "SaveImage", {"filename_prefix": "x\ud83d"}, r"filename_prefix of node 3 \(SaveIm"),
        ("3", "A", {"list": [{"deep": "\udc00"}]}, "list of node 3"),
        ("3", "A", {"\ud800": 1}, "of node 3"),
        ("3", "A\ud800", {}, "the class of a node"),
        ("\ud800", "A", {}, "id or the class"),
    ],
)
def test_half_a_character_in_a_prompt_is_refused_by_node(
    node_id: str, class_type: str, inputs: dict[str, object], says: str
) -> None:
    with pytest.raises(WorkflowInvalid, match=says) as caught:
        check_texts({node_id: {"class_type": class_type, "inputs": inputs}})  # type: ignore[dict-item,typeddict-item]
    assert not says.startswith("file") or caught.value.details == {"node_id": "3"}


def test_a_whole_emoji_is_no_half_one() -> None:
    check_texts({"1": {"class_type": "A", "inputs": {"text": "🐈 é \x1b"}}})


def test_a_folder_whose_name_is_not_utf_8_is_said(tmp_path: Path) -> None:
    with (
        Record(tmp_path) as record,
        pytest.raises(ConfigurationError, match=r"cannot be recorded: it is not UTF-8"),
    ):
        record.add("job-1", target="t", source="o\udcff", folder=None, prompt={})


def test_on_windows_texts_stay_as_they_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, click takes ``$HOME``, ``%NAME%``, ``~`` and patterns for the shell's business."""
    said = []

    @click.command()
    @click.option("--prompt")
    def command(prompt: str) -> None:
        said.append(prompt)

    monkeypatch.setattr(click.core, "os", SimpleNamespace(**{**vars(os), "name": "nt"}))
    monkeypatch.setenv("HOME", "/nowhere")
    for text in ("a sign that says $HOME", "%HOME% sweet $HOME", "*", "~", "[a-z]*"):
        monkeypatch.setattr(sys, "argv", ["comfy-remote", "--prompt", text])
        with pytest.raises(SystemExit) as ended:
            enter(command, "comfy-remote")
        assert not ended.value.code
        assert said.pop() == text


def test_patterns_for_files_are_matched_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.json", "b.json", "c.png"):
        (tmp_path / name).touch()
    given = [Path("*.json"), Path("c.png"), Path("x*.json"), tmp_path / "?.png"]
    assert matching(given, windows=True) == (
        *(Path("a.json"), Path("b.json"), Path("c.png"), Path("x*.json")),
        tmp_path / "c.png",
    )
    assert matching(given, windows=False) == tuple(given)

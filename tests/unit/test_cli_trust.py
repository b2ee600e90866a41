"""``comfy-remote trust``, ``--config``, and the question at a terminal."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from owner import configure

from comfy_remote.config.trust import TrustStore

NAMES = '[targets.there]\ntarget = "http://127.0.0.1:9"\nkey_env = "PLANTED"\n'
LINE = '[targets.there] target = "http://127.0.0.1:9", key_env = "PLANTED" (sends PLANTED)'
PICTURE = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PLANTED", "planted-secret")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COMFY_REMOTE_CONFIG", raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    Path("w.json").write_text(json.dumps(PICTURE))
    return tmp_path / "project"


def command(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "comfy_remote", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=180,
    )


def at_a_terminal(answer: str, *arguments: str) -> tuple[int, str]:
    """The exit status and all that a person sees, who answers the first question like that."""
    import pty  # where there are terminals

    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "comfy_remote", *arguments],
        stdin=inside,
        stdout=inside,
        stderr=inside,
    )
    os.close(inside)
    seen, answered = b"", False
    while select.select([terminal], [], [], 60)[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux: nobody has the other end open
            break
        if not part:
            break
        seen += part
        if not answered and b"[y/N]" in seen:
            os.write(terminal, answer.encode() + b"\n")
            answered = True
    os.close(terminal)
    return process.wait(180), seen.decode().replace("\r\n", "\n")


on_posix = pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal")


def test_without_a_terminal_it_is_refused_with_the_command(project: Path) -> None:
    path = configure(project, 'default = "there"\n' + NAMES)
    for arguments in (["run", "w.json"], ["check", "w.json"], ["run", "w.json", "--on", "there"]):
        done = command(*arguments, stdin="y\n" * 9)
        assert done.returncode == 2, done.stderr
        assert f"comfy-remote trust {path}" in done.stderr
        assert "--config" in done.stderr
        assert "planted-secret" not in done.stdout + done.stderr
    found = [json.loads(line) for line in command("doctor", "--json").stdout.splitlines()]
    (target,) = [one for one in found if one["check"] == "target"]
    assert (target["status"], f"trust {path}" in target["advice"]) == ("problem", True)
    done = command("run", "w.json", "--json")
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["code"]) == ("error", "not_trusted")


def test_only_a_person_at_a_terminal_is_asked(project: Path) -> None:
    path = configure(project, NAMES)
    (project / ".env").write_text("PLANTED=theirs\nRUNPOD_ENDPOINT_ID=theirs\n")
    said = command("trust", stdin="y\n" * 9).stderr
    assert 'RUNPOD_ENDPOINT_ID = "theirs"' in said
    assert "for .env: set the variables in the environment" in said
    done = command("trust", str(path), stdin="y\n" * 9)
    assert done.returncode == 2
    assert LINE in done.stderr
    assert "--config" in done.stderr
    assert command("trust", "--list").stdout == ""
    assert command("run", "w.json", "--on", "there").returncode == 2


@on_posix
def test_a_yes_is_given_listed_and_taken_back(project: Path) -> None:
    path = configure(project, NAMES)
    status, seen = at_a_terminal("n", "trust")
    assert (status, LINE in seen) == (1, True)
    assert "Nothing has changed" in seen
    assert command("trust", "--list").stdout == ""
    status, seen = at_a_terminal("y", "trust", str(path))
    assert (status, LINE in seen) == (0, True)
    assert command("trust", "--list").stdout == f"{path}\n  {LINE}\n"
    listed = command("trust", "--list", "--json").stdout
    assert json.loads(listed) == {"file": str(path), "names": [LINE]}
    again = command("trust")
    assert (again.returncode, LINE in again.stderr) == (0, True)
    rows = [json.loads(line) for line in command("targets", "--json").stdout.splitlines()]
    assert [(row["name"], row["trusted"], row["key_set"]) for row in rows] == [
        ("there", True, True)
    ]
    assert command("run", "w.json", "--on", "there").returncode == 3  # nobody is there
    path.rename(path.with_suffix(".away"))
    assert f"{path}  (no longer there)" in command("trust", "--list").stdout
    path.with_suffix(".away").rename(path)
    assert command("trust", "--remove", str(path)).returncode == 0
    assert command("trust", "--remove", str(path)).returncode == 2
    assert command("run", "w.json", "--on", "there").returncode == 2


@on_posix
def test_a_command_asks_and_goes_on(project: Path) -> None:
    configure(project, '[targets.here]\ntarget = "sandbox"\n')
    status, seen = at_a_terminal("n", "run", "w.json", "--on", "here")
    assert status == 2
    assert '[targets.here] target = "sandbox"' in seen
    assert not Path("output").exists() or not list(Path("output").glob("*.png"))
    status, seen = at_a_terminal("y", "run", "w.json", "--on", "here", "--no-preview")
    assert status == 0, seen
    assert list(Path("output").glob("*.png"))
    assert command("check", "w.json", "--on", "here").returncode == 0


def test_what_is_not_trusted_is_marked_and_its_variables_are_not_looked_for(project: Path) -> None:
    path = configure(project, NAMES)
    done = command("targets")
    assert "not trusted yet" in " ".join(done.stdout.split())
    assert f"comfy-remote trust {path}" in done.stderr
    (row,) = map(json.loads, command("targets", "--json").stdout.splitlines())
    assert (row["trusted"], row["key_set"], row["secrets"], row["default"]) == (
        *(False, None),
        *({}, False),
    )


@on_posix
def test_only_what_is_new_in_a_file_is_said_to_be_unused(project: Path) -> None:
    path = configure(project, 'default = "new"\n' + NAMES)
    assert at_a_terminal("y", "trust")[0] == 0
    path.write_text(path.read_text() + '[targets.new]\ntarget = "http://127.0.0.1:8"\n')
    said = command("targets").stderr
    assert f"Not trusted, so not used: new, named by {path}." in said
    assert "Without --on, nothing runs until you have trusted the default target." in said


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_file_that_is_named_is_trusted(project: Path, where: str) -> None:
    configure(project, NAMES)
    (project / ".env").write_text("RUNPOD_API_KEY=x\n")
    mine = project / "ci.toml"
    mine.write_text('default = "here"\n[targets.here]\ntarget = "sandbox"\n')
    named = ("--config", str(mine))
    parts = ("run", "w.json", "--json")
    done = command(*(named + parts if where == "before" else parts + named))
    assert done.returncode == 0, done.stderr
    assert "not used" not in done.stderr
    rows = command(*named, "targets", "--json").stdout.splitlines()
    assert [json.loads(row)["name"] for row in rows] == ["here"]
    assert command("--config", "missing.toml", "targets").returncode == 2


def test_every_command_has_it() -> None:
    import click

    from comfy_remote.cli.main import cli
    from comfy_remote.cli.run_remote import run_remote

    def all_below(one: click.Command) -> list[click.Command]:
        below = one.commands.values() if isinstance(one, click.Group) else ()
        return [one, *(each for command in below for each in all_below(command))]

    context = click.Context(cli)
    for name in cli.list_commands(context):
        cli.get_command(context, name)  # the group imports a command when it is asked for it
    for one in (run_remote, *all_below(cli)):
        names = [p.name for p in one.params]
        assert (names.count("config"), names.count("verbose")) == (1, 1), one.name


def test_a_pod_by_a_folders_name_is_no_pod_by_its_id(project: Path) -> None:
    configure(project, '[targets.abcdefghij12]\ntarget = "http://127.0.0.1:9"\n')
    code = "from comfy_remote.cli.run_remote import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--workflow", "w.json", "--pod-url", "abcdefghij12"],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 2
    assert "comfy-remote trust" in done.stderr


def test_an_env_file_that_would_have_named_the_target_is_mentioned(project: Path) -> None:
    path = project / ".env"
    path.write_text("COMFY_BASE_URL=http://127.0.0.1:9\n")
    done = command("run", "w.json", "--dry-run")
    assert done.returncode == 0
    assert "No target is configured: using the sandbox." in done.stderr
    assert f"Not trusted, so not used: COMFY_BASE_URL, set by {path}." in done.stderr
    assert "not used" not in command("run", "w.json", "--dry-run", "--on", "sandbox").stderr


@on_posix
def test_an_env_file_is_asked_about_when_it_is_needed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project / ".env"
    path.write_text("RUNPOD_API_KEY=planted-key-in-env\nRUNPOD_ENDPOINT_ID=abc\n")
    assert command("run", "w.json", "--on", "sandbox").returncode == 0  # not needed, not asked
    done = command("run", "w.json", "--on", "runpod:")
    assert done.returncode == 2
    assert f"comfy-remote trust {path}" in done.stderr
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", "https://127.0.0.1:9/v2")
    _, seen = at_a_terminal("y", "check", "w.json", "--on", "runpod:")
    assert "Endpoint abc at https://127.0.0.1:9" in seen  # nobody is there
    assert 'RUNPOD_ENDPOINT_ID = "abc"' in seen
    assert "planted-key" not in seen + command("trust", "--list").stdout


def test_a_modal_project_that_nobody_can_trust_is_given_what_helps_there(tmp_path: Path) -> None:
    folder = tmp_path / "modal_x"
    folder.mkdir()
    (folder / "modal_config.json").write_text('{"secrets": ["theirs"]}')
    (folder / "prompt.json").write_text("{}")
    (folder / "workflow.py").write_text("print('theirs')")
    done = command("trust", str(folder))
    assert done.returncode == 2
    assert "deploy modal, give what it names with options" in done.stderr
    assert "--config" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_folder_with_a_line_break_in_its_name_is_shown_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "a\n" / "etc" / "passwd"
    folder.mkdir(parents=True)
    (folder / "comfy-remote.toml").write_text(NAMES)
    refused = command("trust", str(folder))
    assert refused.returncode != 0
    assert "/etc/passwd" in refused.stderr
    TrustStore(tmp_path / "home").trust(folder / "comfy-remote.toml", ["x\ny"])
    listed = command("trust", "--list").stdout
    missing = command("trust", "--remove", str(folder / "other.toml")).stderr
    for text in (refused.stderr, listed, missing):
        assert "/etc/passwd" in text
        assert not [line for line in text.splitlines() if line.startswith("/etc")]
    assert "  x y" in listed.splitlines()

"""Completion that sets itself up, in each shell."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from comfy_remote.cli.completion import completion
from comfy_remote.errors import LocalStorageError


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of somebody."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("ZDOTDIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "it's mine"))
    return tmp_path


def install(*words: str) -> str:
    done = CliRunner().invoke(completion, [*words, "--install"])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(("shell", "file"), [("bash", ".bashrc"), ("zsh", ".zshrc")])
def test_the_shells_own_file_loads_the_script(person: Path, shell: str, file: str) -> None:
    profile = person / file
    before = b"alias ll='ls -l'\n# caf\xe9\n"
    profile.write_bytes(before)
    profile.chmod(0o640)
    install(shell)
    once = profile.read_bytes()
    assert once.startswith(before) and once.count(b">>> comfy-remote") == 1
    if os.name == "posix":
        assert stat.S_IMODE(profile.stat().st_mode) == 0o640
    install(shell)
    assert profile.read_bytes() == once, "set up twice is set up once"
    script = person / "it's mine" / "completion" / shell
    assert "_COMFY_RUN_REMOTE_COMPLETE" in script.read_text()


def test_a_link_to_the_shells_file_stays_one(person: Path) -> None:
    real = person / "dotfiles"
    real.write_text("# mine\n")
    try:
        (person / ".bashrc").symlink_to(real)
    except OSError:
        pytest.skip("no links here")
    install("bash")
    assert (person / ".bashrc").is_symlink() and "comfy-remote" in real.read_text()


@pytest.mark.parametrize("lines", ["\n", "\r\n"])
def test_a_profile_in_utf_16_stays_one(person: Path, lines: str) -> None:
    before = f"Set-Alias ll ls # größer{lines}"
    (person / ".bashrc").write_bytes(before.encode("utf-16"))
    install("bash")
    text = (person / ".bashrc").read_bytes().decode("utf-16")
    assert text.startswith(before.rstrip()) and "completion/bash" in text


def test_what_follows_a_block_without_an_end_is_the_users(person: Path) -> None:
    profile = person / ".bashrc"
    profile.write_text("# >>> comfy-remote completion >>>\nalias mine=1\n")
    install("bash")
    install("bash")
    assert "alias mine=1\n" in profile.read_text()
    assert profile.read_text().count("<<< comfy-remote") == 1


def test_a_full_disk_leaves_the_shells_file_as_it_was(
    person: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = person / ".bashrc"
    profile.write_text("export PATH=/mine\n")
    install("bash")
    profile.write_text("export PATH=/other\n")
    before = profile.read_bytes()

    def full(path: Path, content: bytes) -> int:
        path.open("wb").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = Path.write_bytes
    monkeypatch.setattr(
        Path, "write_bytes", lambda to, data: (full if to.parent == person else whole)(to, data)
    )
    done = CliRunner().invoke(completion, ["bash", "--install"])
    assert isinstance(done.exception, LocalStorageError)
    assert profile.read_bytes() == before


def test_a_second_time_says_that_nothing_had_to_change(person: Path) -> None:
    install("bash")
    again = CliRunner().invoke(completion, ["bash", "--install"])
    assert "up to date" in again.output and "Written" not in again.output
    (person / ".bashrc").write_text("")
    assert f"Written: {person / '.bashrc'}" in CliRunner().invoke(
        completion, ["bash", "--install"]
    ).output.replace("\n", "")


def test_fish_gets_a_file_for_each_command(person: Path) -> None:
    install("fish")
    folder = person / ".config" / "fish" / "completions"
    assert {path.name for path in folder.iterdir()} == {
        "comfy-remote.fish",
        "comfy-run-remote.fish",
    }


def test_the_shell_in_use_is_found(person: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("SHELL", "/usr/local/bin/zsh")
    install()
    assert (person / ".zshrc").exists() and not (person / ".bashrc").exists()
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    refused = CliRunner().invoke(completion, ["--install"])
    assert refused.exit_code == 2 and "Which shell is yours?" in refused.output


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_in_a_new_terminal(person: Path) -> None:
    """A real bash, with the file that it reads at its start."""
    install("bash")
    (person / "bin").mkdir()
    command = person / "bin" / "comfy-remote"
    code = "from comfy_remote.cli.main import main; main()"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    command.chmod(0o755)
    lines = {
        "comfy-remote jobs re": {"resume", "retry"},
        "comfy-remote run example:col": {"collage"},  # what readline puts behind the colon
        "comfy-remote run exa": {"example:collage", "example:portrait", "example:slow"},
    }
    asking = "".join(
        f"COMPREPLY=(); COMP_LINE='{line}'; COMP_POINT={len(line)}; "
        '_comfy_remote_completion comfy-remote 2>/dev/null; echo "${COMPREPLY[@]}"; '
        for line in lines
    )
    asked = subprocess.run(
        ["bash", "--noprofile", "--rcfile", str(person / ".bashrc"), "-ic", asking],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{person / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        timeout=180,
    )
    assert [set(line.split()) for line in asked.stdout.splitlines()] == [*lines.values()]


# ---- PowerShell, by what it would be told ------------------------------------------------------


def test_powershells_own_file_loads_the_script(
    person: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its profile may be anywhere: PowerShell is asked for it."""
    profile = person / "Documents" / "profile.ps1"
    monkeypatch.setattr(shutil, "which", lambda name: "pwsh" if name == "pwsh" else None)
    asked: list[list[str]] = []

    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, f"{profile}\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    install("powershell")
    assert asked[0][-1] == "$PROFILE"
    quoted = str(person / "it's mine" / "completion" / "completion.ps1").replace("'", "''")
    assert f". '{quoted}'" in profile.read_text()
    script = (person / "it's mine" / "completion" / "completion.ps1").read_text()
    assert script.count("Register-ArgumentCompleter -Native -CommandName") == 2


@pytest.mark.parametrize(
    ("typed", "word", "found"),
    [
        ("comfy-remote jobs re", "re", {"resume", "retry"}),
        ("comfy-remote jobs retry --o", "--o", {"--on", "--output", "--open", "--over-cap"}),
        ("comfy-remote jo", "jo", {"jobs"}),
    ],
)
def test_what_powershell_is_answered(typed: str, word: str, found: set[str]) -> None:
    code = "from comfy_remote.cli.main import main; main()"
    environment = {
        **os.environ,
        "_COMFY_REMOTE_COMPLETE": "powershell_complete",
        "COMP_WORDS": typed,
        "COMP_CWORD": word,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert {line.partition("\t")[0] for line in done.stdout.splitlines()} == found

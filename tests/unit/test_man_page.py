"""The manual pages say what the program does, and completion knows its commands."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from owner import configure

from comfy_remote.cli.main import cli
from comfy_remote.cli.run_remote import run_remote
from comfy_remote.errors import ComfyRemoteError

ROOT = Path(__file__).parents[2]
MAN = ROOT / "man"
TOOL = runpy.run_path(str(ROOT / "tools" / "man_page.py"))
man_page, pages = TOOL["man_page"], TOOL["pages"]


@pytest.mark.parametrize("name", pages())
def test_the_pages_are_those_of_this_program(name: str) -> None:
    kept = (MAN / name).read_text(encoding="utf-8")
    assert kept == pages()[name], "run make man"


def test_every_option_is_there() -> None:
    def commands(command: click.Command) -> Iterator[click.Command]:
        yield command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                sub = command.get_command(context, name)
                assert sub is not None
                yield from commands(sub)

    for command, name in ((cli, "comfy-remote"), (run_remote, "comfy-run-remote")):
        page = pages()[f"{name}.1"].replace("\\-", "-")
        for one in commands(command):
            for param in one.params:
                if isinstance(param, click.Option):
                    assert max(param.opts, key=len) in page


def test_every_exit_status_is_there() -> None:
    def kinds(kind: type[ComfyRemoteError]) -> Iterator[type[ComfyRemoteError]]:
        yield kind
        for sub in kind.__subclasses__():
            yield from kinds(sub)

    page = pages()["comfy-run-remote.1"].split('"EXIT STATUS"')[1]
    for kind in kinds(ComfyRemoteError):
        if kind is not ComfyRemoteError:
            assert f"\\fB{kind.exit_status}\\fR" in page


def test_text_is_not_taken_for_roff() -> None:
    @click.command(help=".SH what begins with a dot\\\n\n'and a quote")
    def strange() -> None:
        pass

    page = man_page(strange, "strange")
    assert "\n\\&.SH what begins with a dot\\e\n" in page
    assert "\n\\&'and a quote\n" in page


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_groff_has_no_complaint() -> None:
    for text in pages().values():
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww"],
            input=text.encode(),
            capture_output=True,
            check=True,
        )
        assert done.stderr == b""


def test_completion_knows_commands_and_options() -> None:
    environment = {
        **os.environ,
        "_COMFY_REMOTE_COMPLETE": "zsh_complete",
        "COMP_WORDS": "comfy-remote jobs re",
        "COMP_CWORD": "2",
    }
    code = "from comfy_remote.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "resume" in done.stdout.split()


def test_completion_knows_names_and_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy_remote.cli.options import complete_job, complete_target
    from comfy_remote.jobs.record import Record

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    configure(tmp_path / "home", '[targets.gpu]\ntarget = "runpod:x"\n')
    context = click.Context(run_remote)
    option = run_remote.params[0]
    assert complete_target(context, option, "") == ["gpu", "comfy:cloud", "pod:auto", "sandbox"]
    assert complete_target(context, option, "g") == ["gpu"]
    with Record(tmp_path / "home") as record:
        for job in ("aaaa-1", "bbbb-2"):
            record.add(job, target="gpu", source="x", folder=None, prompt={})
    assert complete_job(context, option, "bb") == ["bbbb-2"]
    (tmp_path / "comfy-remote.toml").write_text("broken =")
    assert complete_target(context, option, "") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_completion_scripts_are_for_both_commands(
    shell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["comfy-remote", "completion", shell])
    from comfy_remote.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    out = capsys.readouterr().out
    assert "_COMFY_REMOTE_COMPLETE" in out
    assert "_COMFY_RUN_REMOTE_COMPLETE" in out


def test_help_describes_each_command_as_its_own_help_does() -> None:
    """It has words of its own, since it imports no command."""
    context = click.Context(cli)
    formatter = click.HelpFormatter(width=100)
    cli.format_commands(context, formatter)
    lines = [line.split(maxsplit=1) for line in formatter.getvalue().splitlines()[1:]]
    assert [name for name, _ in lines] == cli.list_commands(context)
    for name, words in lines:
        command = cli.get_command(context, name)
        assert command is not None and command.help is not None
        assert command.help.split()[:2] == words.rstrip(".").split()[:2], name

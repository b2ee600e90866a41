"""The command in this process: arguments, errors, exit statuses, what is configured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import click
import pytest
from lookups import record_lookups
from owner import configure

from comfy_remote import __version__
from comfy_remote.cli.main import cli, main
from comfy_remote.errors import ConfigurationError, InputFileMissing, OutputLost
from comfy_remote.events import JobState
from comfy_remote.jobs import status as job_status
from comfy_remote.jobs.record import Record, SavedOutput
from comfy_remote.targets.base import RemoteRef

PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {"color": 1}}}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("DEBUG", "RUNPOD_API_KEY", "RUNPOD_ENDPOINT_BASE_URL", "RUNPOD_ENDPOINT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["comfy-remote", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return command


def write(name: str, content: object) -> Path:
    path = Path(name)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_help_and_version(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    listed = out.split("Commands:")[1].split("\n\n")[0].split("\n  ")[1:]
    names = [line.split()[0] for line in listed if not line.startswith(" ")]
    assert names == cli.list_commands(click.Context(cli))
    assert names[0] == "run"
    assert {"show", "jobs", "serve", "targets"} <= {*names}
    assert run("--version") == (0, f"comfy-remote {__version__}\n", "")


def test_no_help_runs_its_examples_together() -> None:
    """Click keeps the lines of a paragraph below one ``\\b``, which a docstring may spell wrong."""

    def texts(command: click.Command) -> Iterator[str]:
        yield command.help or ""
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                yield from texts(inner) if inner is not None else ()

    found = [*texts(cli)]
    assert sum("\b\n" in text for text in found) > 10
    assert not [text for text in found if "\\b" in text]


def test_no_command_is_described_by_half_a_sentence() -> None:
    """Click cuts the first sentence of a command's help to what fits beside its name."""

    def lists(command: click.Command) -> Iterator[str]:
        if isinstance(command, click.Group):
            context = click.Context(command, info_name="comfy-remote", terminal_width=78)
            yield command.get_help(context).partition("Commands:")[2]
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                yield from lists(inner) if inner is not None else ()

    assert not [text for text in lists(cli) if "..." in text]


def modules_after(script: str) -> set[str]:
    """What a fresh Python has imported once it has run this."""
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_a_run_imports_its_http_stack_beside_the_rest() -> None:
    ours = modules_after("import comfy_remote.cli.run_workflow, comfy_remote.cli.reporter")
    assert ours.isdisjoint({"aiohttp", "pydantic", "rich", "numpy", "PIL"})
    target = modules_after(
        "from comfy_remote.targets.opening import open_target\nopen_target('http://127.0.0.1:8188')"
    )
    assert "comfy_remote.targets.comfyui.target" in target
    assert target.isdisjoint({"pydantic", "rich", "numpy", "PIL"})
    script = (
        "import sys, threading; sys.argv = ['comfy-remote', 'run', {!r}]\n"
        "from comfy_remote.cli.entry import import_ahead; import_ahead()\n"
        "for thread in threading.enumerate():\n"
        "    if thread is not threading.main_thread(): thread.join()"
    )
    assert "aiohttp" in modules_after(script.format("workflow.json"))
    assert "aiohttp" not in modules_after(script.format("--help"))


def test_a_run_of_a_prompt_imports_nothing_that_only_other_runs_need() -> None:
    ours = modules_after("import comfy_remote.cli.run_workflow, comfy_remote.cli.reporter")
    other = {
        *("comfy_remote.workflow.convert", "comfy_remote.schemas.finding"),  # UI format
        "comfy_remote.workflow.text_to_image",  # no workflow
        "comfy_remote.jobs.refusals",  # a target that refuses it
        *("html", "statistics", "difflib", "importlib.resources"),  # notebooks, mistakes
    }
    assert ours.isdisjoint(other)


@pytest.mark.parametrize("seconds", ["nan", "inf", "-inf", "-1", "0", "soon", "1e999"])
@pytest.mark.parametrize(
    "command",
    [
        ("main", "run", "x.json"),
        ("main", "jobs", "resume", "abcd"),
        ("run_remote", "--workflow", "x.json", "--pod-url", "http://127.0.0.1:9"),
    ],
)
def test_a_time_that_is_none(
    command: tuple[str, ...],
    seconds: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module, *arguments = command
    monkeypatch.setattr(sys, "argv", [module, *arguments, "--timeout", seconds])
    with pytest.raises(SystemExit) as ended:
        import_module(f"comfy_remote.cli.{module}").main()
    assert ended.value.code == 2
    assert "Invalid value for '--timeout'" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['comfy-remote', '--help']\n"
        "from comfy_remote.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(','.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.splitlines()[-1].split(","))
    assert "click" in loaded
    assert not loaded & {"aiohttp", "pydantic", "numpy", "PIL", "rich", "asyncio", "sqlite3"}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("run",), 2, "Missing argument"),
        (("rnu",), 2, "No such command"),
        (("run", "x.json", "--timeout", "0"), 2, "--timeout"),
        (("run", "missing.json"), 4, "There is no file missing.json"),
        (("run", "empty.json"), 4, "is empty"),
        (("run", "text.json"), 4, "not valid JSON"),
        (("run", "ui.json"), 4, "empty"),
        (("run", "good.json", "--set", "1.colour=2"), 4, "Did you mean 'color'?"),
        (("run", "good.json", "--set", "nonsense"), 2, "NODE.input=value"),
        (("run", "good.json", "--set", "1.=2"), 2, "NODE.input=value"),
        (("check", "good.json", "--set", "colour=2"), 2, "NODE.input=value"),
        (("run", "good.json", "--input", "nowhere.png"), 2, "nowhere.png"),
        (("run", "good.json", "--on", "nonsense"), 2, "There is no target 'nonsense'"),
        (("run", "good.json", "--on", "runpod:abc"), 2, "RUNPOD_API_KEY"),
        (("jobs", "show", "ffff"), 2, "has no job"),
        (("jobs", "resume", "ffff"), 2, "has no job"),
        (("jobs", "cancel", "ffff"), 2, "has no job"),
    ],
)
def test_errors(run: Run, arguments: tuple[str, ...], status: int, words: str) -> None:
    write("empty.json", {})
    write("text.json", "not json")
    write("ui.json", {"nodes": [], "links": []})
    write("good.json", PROMPT)
    ended, out, err = run(*arguments)
    assert (ended, out) == (status, "")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["../secret.png", "//host/share/secret.png", "{secret}"])
def test_a_workflow_that_names_files_of_other_folders(run: Run, tmp_path: Path, name: str) -> None:
    """Each command says that it is not sent, and how to send it."""
    secret = tmp_path.parent / "secret.png"
    secret.write_bytes(b"secret")
    image = name.format(secret=secret)
    remote = {"class_type": "ComfyRemoteOutput", "inputs": {"key": "k", "value": ["1", 0]}}
    write("w.json", {"1": {"class_type": "LoadImage", "inputs": {"image": image}}, "2": remote})
    for command, option in (("run", "--input FILE"), ("call", "--load FILE")):
        status, out, err = run(command, "w.json")
        assert (status, out) == (InputFileMissing.exit_status, "")
        assert "is not below the folder of the workflow or the current one" in err
        assert f"Name it with {option}." in err
    status, out, err = run("check", "w.json")
    assert status == 4
    assert "is not below the folder of the workflow" in out
    assert "Name it with --input FILE." in out
    status, out, err = run("show", "w.json")
    assert status == 0
    assert "is not sent unless --input FILE names it" in err
    status, out, err = run("service", "w.json", "--port", "0")
    assert status == InputFileMissing.exit_status
    assert "Name it with --input FILE." in err


@pytest.mark.parametrize("name", ["//evilhost/share/a.png", "\\\\evilhost\\share\\a.png [input]"])
def test_names_of_other_machines_are_never_looked_up(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """On Windows, to look at such a path is to log in there."""
    remote = {"class_type": "ComfyRemoteOutput", "inputs": {"key": "k", "value": ["1", 0]}}
    load = {"class_type": "LoadImage", "inputs": {"image": name}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": name}}
    write("w.json", {"1": load, "2": remote, "3": save})
    asked = record_lookups(monkeypatch)
    for command in (
        ("show", "w.json"),
        ("check", "w.json"),
        ("cut", "w.json", "--remote", "1"),
        ("run", "w.json", "--set", f"1.image={name}"),
        ("call", "w.json"),
    ):
        run(*command)
    assert [path for path in asked if path.endswith("w.json")]
    assert not [path for path in asked if "evilhost" in path]


def test_errors_as_json(run: Run) -> None:
    write("good.json", PROMPT)
    status, out, err = run("run", "good.json", "--input", "nowhere.png", "--json")
    assert (status, err) == (ConfigurationError.exit_status, "")
    error = json.loads(out)
    assert (error["event"], error["code"]) == ("error", ConfigurationError.code)
    assert (error["job_id"], error["resume"]) == (None, None)


def test_an_unexpected_error_is_not_swallowed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("comfy_remote.cli.run_workflow.load_typed", broken)
    status, _, err = run("run", "x.json")
    assert status == 1
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("ZeroDivisionError\n")


def test_a_record_that_cannot_be_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write("good.json", PROMPT)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(write("file", "in the way") / "home"))
    status, _, err = run("run", "good.json")
    assert status == 7
    assert "COMFY_REMOTE_HOME" in err


def add_job(record: Record, job_id: str, state: JobState, path: Path | None = None) -> None:
    record.add(job_id, target="http://h:1", source="a/b.json", folder=Path.cwd(), prompt=PROMPT)
    record.submitted(RemoteRef(job_id, "remote", {"url": "http://h:1"}))
    error = OutputLost("Nothing is left.", advice="Run it again.")
    record.state(job_id, state, error if state is JobState.FAILED else None)
    if path is not None:
        path.write_bytes(b"content")
        digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
        record.saved(job_id, [SavedOutput(path.absolute(), "1", "file", path.name, digest, 7)])


def test_jobs(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_status, "statuses", partial(job_status.statuses, seconds=0.2))
    status, out, err = run("jobs", "list")
    assert (status, out) == (0, "")
    assert "No jobs yet" in err
    with Record(tmp_path / "home") as record:
        add_job(record, "aaaa1111-0000", JobState.FAILED)
        add_job(record, "aaaa2222-0000", JobState.SUCCEEDED, Path("x.bin"))
    _, out, _ = run("jobs", "list")
    rows = [line.split() for line in out.splitlines() if "aaaa" in line]
    assert [(row[0], row[3], row[4], row[5]) for row in rows] == [
        ("aaaa2222", "succeeded", "http://h:1", "b.json"),
        ("aaaa1111", "failed", "http://h:1", "b.json"),
    ]
    _, out, _ = run("jobs", "list", "--json", "--limit", 1)
    (entry,) = map(json.loads, out.splitlines())
    assert (entry["job_id"], entry["outputs"][0]["size"]) == ("aaaa2222-0000", 7)
    _, out, _ = run("jobs", "show", "aaaa1")
    assert "Nothing is left." in out
    assert run("jobs", "show", "aaaa")[0] == 2

    # Of one that had not ended, the target is asked, which does not exist.
    with Record(tmp_path / "home") as record:
        add_job(record, "bbbb1111-0000", JobState.RUNNING)
    status, out, _ = run("jobs", "list", "--limit", 1)
    assert (status, out.split("bbbb1111")[1].split()[2]) == (0, "unknown")
    _, out, _ = run("jobs", "show", "bbbb", "--json")
    shown = json.loads(out)
    assert (shown["state"], shown["last_state"]) == ("unknown", "running")
    assert "http://h:1" in shown["unknown"]
    status, out, _ = run("jobs", "show", "bbbb")
    assert status == 0
    assert "unknown (running when last seen)" in out
    _, out, _ = run("jobs", "show", "bbbb", "--json", "--offline")
    assert json.loads(out)["state"] == "running"

    # Neither asks the target, which does not exist.
    status, out, err = run("jobs", "resume", "aaaa2")
    assert (status, out) == (0, "x.bin\n")
    assert "here already" in err
    status, out, err = run("jobs", "resume", "aaaa1")
    assert (status, out) == (OutputLost.exit_status, "")
    assert "Nothing is left.\nRun it again." in err
    assert "had ended already: failed" in run("jobs", "cancel", "aaaa1")[2]


def test_targets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, err = run("targets")
    assert out == ""
    assert "No targets are configured" in err
    file = configure(
        Path("home"),
        'default = "gpu"\n[targets.gpu]\ntarget = "runpod:abc"\n[targets.box]\n'
        'target = "runpod:w"\nbase_url = "https://box/v2"\nkey_env = "BOX_TOKEN"\n'
        'price_per_hour = 0.69\n[targets.any]\nroute = ["gpu", "box"]\n[targets.lan]\ntarget = "http://192.168.1.20:8188"\n',
    )
    monkeypatch.setenv("BOX_TOKEN", "a-secret-that-is-not-shown")
    _, out, err = run("targets", "--json")
    rows = {row["name"]: row for row in map(json.loads, out.splitlines())}
    assert rows["gpu"] == {
        "name": "gpu",
        "target": "runpod:abc",
        "default": True,
        "key_env": "RUNPOD_API_KEY",
        "key_set": False,
        "secrets": {"RUNPOD_API_KEY": False},
        "file": str(file.absolute()),
        "trusted": True,
        "price_per_hour": None,
        "price_source": None,
        "price_at": None,
    }
    assert rows["box"]["price_per_hour"] == 0.69
    assert rows["box"]["price_source"] == "your settings"
    assert (rows["box"]["key_env"], rows["box"]["key_set"]) == ("BOX_TOKEN", True)
    assert (rows["lan"]["key_env"], rows["lan"]["key_set"]) == (None, None)
    _, out, err = run("targets")
    assert "gpu (default)" in out
    assert "not known" in out
    assert "$0.69 an hour" in " ".join(out.split())
    assert "its members'" in " ".join(out.split())
    assert "BOX_TOKEN is set" in out
    assert "a-secret" not in out + err


@pytest.mark.parametrize("hours", ["nan", "inf", "-1", "0", "1e400", "x"])
def test_how_long_a_service_stores_results_is_a_number(run: Run, hours: str) -> None:
    status, _, said = run("service", "x.json", "--keep", hours)
    assert status == 2
    assert "--keep" in said


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_token_file_may_be_of_any_shell(tmp_path: Path, encoding: str) -> None:
    from comfy_remote.cli.serving import read_token

    path = tmp_path / "token"
    path.write_bytes("a-token-of-a-shell\r\n".encode(encoding))  # PowerShell's `>`: UTF-16
    token = read_token(path)
    assert token is not None
    assert token.get_secret_value() == "a-token-of-a-shell"


def test_a_token_file_that_never_ends_is_refused(tmp_path: Path) -> None:
    from comfy_remote.cli.serving import read_token

    path = tmp_path / "token"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(ConfigurationError, match="more than 4096 bytes"):
        read_token(path)


@pytest.mark.parametrize(
    "arguments",
    [["run", "w.json"], ["call", "w.json"], ["run", "w.json", "--json"]],
)
def test_a_default_folder_that_is_a_link_out_is_not_written_to(
    run: Run, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone" / "output").symlink_to(tmp_path / "elsewhere")
    os.chdir(tmp_path / "clone")
    write("w.json", PROMPT)
    status, out, err = run(*arguments)
    assert status == 2
    assert "output is a link that leads out of the current folder" in err
    assert "output output" in out + err  # how to say that it is meant
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_name_with_a_line_break_looks_like_one(run: Run) -> None:
    """Of a node's class in `show` and `check`, of a target in `targets`, of a job's in `jobs`."""
    forged = "A\nFORGED"
    flow = write("w.json", {"1": {"class_type": forged, "inputs": {"text": forged}}})
    Path("home").mkdir()
    write("home/comfy-remote.toml", f"[targets.{json.dumps(forged)}]\ntarget = 'sandbox'\n")
    with Record(Path("home")) as record:
        record.add("aaaa1111-0000", target=forged, source=forged, folder=None, prompt=PROMPT)
    seen = {
        "show": run("show", flow)[1:],
        "check": run("check", flow)[1:],
        "targets": run("targets")[1:],
        "jobs list": run("jobs", "list")[1:],
        "jobs show": run("jobs", "show", "aaaa")[1:],
    }
    for command, texts in seen.items():
        lines = "\n".join(texts).splitlines()
        assert any("A FORGED" in line for line in lines), (command, texts)
        assert not [line for line in lines if line.lstrip().startswith("FORGED")], command


@pytest.mark.parametrize(("flags", "expected"), [((), True), (("--no-retry-lost",), False)])
def test_a_job_is_started_again_unless_it_must_not(
    run: Run, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], expected: bool
) -> None:
    plans = []
    monkeypatch.setattr(
        "comfy_remote.cli.run_workflow.run_workflow", lambda plan, _reporter: plans.append(plan)
    )
    status, _, _ = run("run", write("workflow.json", PROMPT), "--on", "sandbox", *flags)
    assert status == 0
    assert [plan.retry_lost for plan in plans] == [expected]

"""The library's face: the same methods and events with and without await, many runs, notebooks."""

from __future__ import annotations

import base64
import inspect
import io
import json
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gated_sandbox import Gate
from helpers import start_sandbox, stop
from PIL import Image

import comfy_remote
from comfy_remote import (
    Changes,
    Client,
    ConfigurationError,
    ExecutionFailed,
    Finished,
    InputFileMissing,
    JobState,
    Output,
    OutputLost,
    OutputReady,
    Progress,
    Started,
    SyncClient,
    SyncJob,
    WorkflowInvalid,
    attach,
    resume,
    run,
)
from comfy_remote.events import Event
from comfy_remote.media.temporary import TemporaryFolder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def picture(color: int = 0xFF0000, *, steps: int = 0) -> dict[str, Any]:
    """A picture; after some steps, if any."""
    empty = {"width": 16, "height": 8, "batch_size": 1, "color": color}
    prompt: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "lib"}},
    }
    if steps:
        slow = {"steps": steps, "seconds_per_step": 0.1, "preview": False}
        inputs = {"image": ["1", 0], "seed": time.time_ns() % 2**40, **slow}
        prompt["2"] = {"class_type": "SandboxSlow", "inputs": inputs}
        prompt["3"]["inputs"]["images"] = ["2", 0]
    return prompt


def color_of(output: Output) -> tuple[int, ...]:
    pixel = output.image().convert("RGB").getpixel((3, 3))
    assert isinstance(pixel, tuple)
    return tuple(int(one) for one in pixel)


@pytest.fixture
def client(sandbox_url: str) -> Iterator[SyncClient]:
    with SyncClient(sandbox_url) as made:
        yield made


# Alike


@pytest.mark.parametrize("name", [n for n in vars(SyncClient) if not n.startswith("_")])
def test_what_the_synchronous_client_has_the_other_has(name: str) -> None:
    ours = getattr(SyncClient, name)
    if name == "close" or isinstance(ours, property):  # the other is always used in `with`
        return
    wanted = dict(inspect.signature(getattr(Client, name)).parameters)
    if name == "submit":  # it passes the others on
        wanted = {**inspect.signature(Client.prepare).parameters, **wanted}
    for parameter, declared in inspect.signature(ours).parameters.items():
        assert wanted[parameter].kind is declared.kind, parameter
        assert wanted[parameter].default == declared.default, parameter


def test_everything_exported_is_there_and_loads_nothing_before() -> None:
    for name in comfy_remote.__all__:
        assert getattr(comfy_remote, name) is not None
    assert set(dir(comfy_remote)) == set(comfy_remote.__all__)
    script = "import comfy_remote, sys; print([m for m in sys.modules if 'comfy_remote.' in m])"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "['comfy_remote.version']"
    with pytest.raises(AttributeError):
        _ = comfy_remote.nothing_of_the_kind


def test_reprs_say_what_it_is(client: SyncClient, sandbox_url: str) -> None:
    job = client.submit(picture())
    assert repr(client) == f"SyncClient({sandbox_url!r})"
    assert job.id in repr(job)
    assert "queued" in repr(job)
    job.wait()
    assert "succeeded" in repr(job)


# One run


def test_the_events_are_those_of_the_job(client: SyncClient) -> None:
    job = client.submit(picture(steps=3))
    events = list(job)
    kinds = [type(event) for event in events]
    assert kinds[-1] is Finished
    assert Started in kinds
    assert Progress in kinds
    [ready] = [event for event in events if isinstance(event, OutputReady)]
    assert job.output(ready.output).bytes() == job.outputs()[0].bytes()
    assert job.finished is events[-1]
    assert job.state is JobState.SUCCEEDED
    assert list(job) == [events[-1]]


def early_and_late() -> dict[str, Any]:
    """A picture that is there long before the other."""
    save = {"images": ["1", 0], "filename_prefix": "early"}
    return {"0": {"class_type": "SaveImage", "inputs": save}, **picture(steps=30)}


def test_an_output_is_saved_while_the_job_runs(client: SyncClient, tmp_path: Path) -> None:
    job = client.submit(early_and_late())
    for event in job:
        match event:
            case OutputReady(output):
                path = output.save(tmp_path / "out")
                assert job.finished is None
                assert path.read_bytes() == output.fetch().bytes()
                assert path.read_bytes() == job.output(output).bytes()
                assert color_of(output.fetch()) == (255, 0, 0)
                break
    else:
        pytest.fail("no output before the end")
    job.cancel()
    assert job.wait().state is JobState.CANCELLED


async def test_an_output_is_saved_while_an_asynchronous_job_runs(
    sandbox_url: str, tmp_path: Path
) -> None:
    async with Client(sandbox_url) as client:
        job = await client.submit(early_and_late())
        async for event in job:
            match event:
                case OutputReady(output):
                    path = await output.save(tmp_path / "out")
                    assert job.finished is None
                    assert path.read_bytes() == (await output.fetch()).bytes()
                    break
        await job.cancel()
        assert (await job.wait()).state is JobState.CANCELLED


def test_an_output_that_is_gone_is_lost(tmp_path: Path) -> None:
    url, process = start_sandbox("--directory", str(tmp_path / "engine"))
    try:
        with SyncClient(url) as client:
            job = client.submit(early_and_late())
            for event in job:
                match event:
                    case OutputReady(output):
                        break
            [made] = (tmp_path / "engine").rglob("early*.png")
            made.unlink()
            with pytest.raises(OutputLost):
                output.save(tmp_path / "out")
            job.cancel()
        with pytest.raises(RuntimeError, match="closed"):
            output.fetch()
    finally:
        stop(process)


def test_changes_are_keywords(client: SyncClient, sandbox_url: str) -> None:
    red, blue = picture(0xFF0000), {"1.color": 0x0000FF}
    [output] = client.run(red, set=blue)
    assert color_of(output) == (0, 0, 255)
    [output] = run(red, sandbox_url, set=["1.color=65280"])
    assert color_of(output) == (0, 255, 0)
    [output] = run(red, sandbox_url, changes=Changes(settings=["1.color=65280"]), width=24)
    assert output.image().size == (24, 8)
    [output] = client.run(workflow=red, set="EmptyImage.color=255")
    assert color_of(output) == (0, 0, 255)
    with pytest.raises(TypeError, match=r"no keyword color=\. Any input .* set="):
        client.run(red, color=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Did you mean seed="):
        client.run(red, sede=5)  # type: ignore[call-arg]
    with pytest.raises(WorkflowInvalid, match="no input 'colour'"):
        client.run(red, set={"EmptyImage.colour": 5})
    with pytest.raises(WorkflowInvalid):
        client.run(red, set={"1.color": "blue"})


def test_what_is_no_workflow_is_said(client: SyncClient) -> None:
    with pytest.raises(WorkflowInvalid, match=r"text of a workflow.*json\.loads"):
        client.prepare(json.dumps(picture(), indent=2))
    with pytest.raises(WorkflowInvalid, match="not a value of type bytes"):
        client.prepare(json.dumps(picture()).encode())  # type: ignore[arg-type]


def test_an_input_file_is_there_and_named(
    client: SyncClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputFileMissing, match=r"no file phot\.png"):
        client.run(picture(), inputs=["phot.png"])
    with pytest.raises(InputFileMissing, match=r"no file phot\.png"):
        client.check(picture(), inputs="phot.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    client.run(picture(), inputs="photo.png")
    assert "photo.png was not sent: no Load node names 'photo.png'." in caplog.text


def test_variables_of_a_file(client: SyncClient, tmp_path: Path) -> None:
    text = json.dumps(picture()).replace(f"{0xFF0000}", "${COLOR}").replace("lib", "${PREFIX}")
    (tmp_path / "w.json").write_text(text)
    [output] = client.run("w.json", vars={"COLOR": "255", "PREFIX": "given"})
    assert color_of(output) == (0, 0, 255)
    assert output.filename.startswith("given")


def test_a_submission_is_looked_at_before_it_is_sent(client: SyncClient, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "in.png")
    (tmp_path / "not.png").write_bytes((tmp_path / "in.png").read_bytes())
    prompt: dict[str, Any] = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    ready = client.prepare(prompt, inputs=["not.png"])
    assert [file.name for file in ready.files] == ["in.png"]
    assert ready.unused == [Path("not.png")]
    (tmp_path / "in.png").rename(tmp_path / "moved.png")
    assert client.estimate(prompt).seconds is None
    (tmp_path / "moved.png").rename(tmp_path / "in.png")
    assert client.submit(ready).wait().state is JobState.SUCCEEDED


def test_a_client_without_with(sandbox_url: str) -> None:
    client = SyncClient(sandbox_url)
    before = threading.active_count()
    assert client.run(picture())
    client.close()
    assert threading.active_count() == before
    assert client.run(picture())  # it opens again
    client.close()
    client.close()


async def test_a_loop_that_runs_already_is_no_hindrance(sandbox_url: str) -> None:
    with SyncClient(sandbox_url) as client:
        assert [type(event) for event in client.submit(picture())][-1] is Finished
    assert run(picture(), sandbox_url)


# Before a run


def test_what_can_be_known_before_a_run(client: SyncClient) -> None:
    assert client.check(picture()).errors == ()
    unknown = picture()
    unknown["9"] = {"class_type": "NobodyKnows", "inputs": {"a": ["1", 0]}}
    unknown["3"]["inputs"]["images"] = ["9", 0]
    assert any("NobodyKnows" in problem.message for problem in client.check(unknown).errors)
    assert client.estimate(picture()).runs == 0
    client.run(picture(steps=2))
    client.run(picture(steps=2))
    estimate = client.estimate(picture(steps=4))
    assert estimate.runs >= 1
    assert estimate.seconds is not None
    [part] = client.cut(picture(steps=2), ["SandboxSlow"]).parts
    assert part.nodes == ["2"] or list(part.nodes) == ["2"]
    with pytest.raises(ConfigurationError, match="No node"):
        client.cut(picture())


# Many runs


def test_many_runs_one_of_which_fails(client: SyncClient) -> None:
    prompt = picture()
    prompt["2"] = {
        "class_type": "SandboxFail",
        "inputs": {"image": ["1", 0], "mode": "none", "message": "No."},
    }
    colors = [0xFF0000, 0x00FF00, 0x0000FF]
    rows: list[Any] = [{"set": {"1.color": color}} for color in colors]
    rows.insert(1, {"set": {"3.images": ["2", 0], "2.mode": "error"}})
    rows.insert(2, {"set": {"1.colour": 5}})
    found = sorted(client.map(prompt, rows, at_most=2), key=lambda result: result.index)
    assert [result.index for result in found] == [0, 1, 2, 3, 4]
    assert [type(result.error) for result in found] == [
        *(type(None), ExecutionFailed, WorkflowInvalid, type(None), type(None))
    ]
    assert found[2].job is None
    assert [color_of(result.outputs[0]) for result in found if not result.error] == [
        *((255, 0, 0), (0, 255, 0), (0, 0, 255))
    ]


def test_no_more_than_so_many_at_a_time_and_rows_are_taken_as_they_are_needed(
    client: SyncClient,
) -> None:
    taken: list[int] = []

    def rows() -> Iterator[Any]:
        for number in range(6):
            taken.append(number)
            yield {"set": {"1.color": number}}

    most = 0
    for count, _ in enumerate(client.map(picture(), rows(), at_most=2), 1):
        most = max(most, len(taken) - count)
    assert len(taken) == 6
    assert most <= 2
    assert list(client.map(picture(), [])) == []
    with pytest.raises(ValueError, match="at least 1"):
        list(client.map(picture(), [{}], at_most=0))


def test_variables_of_a_file_in_each_row(client: SyncClient, tmp_path: Path) -> None:
    text = json.dumps(picture()).replace(f"{0xFF0000}", "${COLOR}")
    (tmp_path / "w.json").write_text(text)
    rows: list[Any] = [{"vars": {"COLOR": str(color)}} for color in (255, 65280)]
    found = sorted(client.map("w.json", rows), key=lambda result: result.index)
    assert [color_of(one.outputs[0]) for one in found] == [(0, 0, 255), (0, 255, 0)]


def test_who_leaves_early_cancels_the_others(gated_url: str, home: Path, tmp_path: Path) -> None:
    """Of three that are sent at once, the one that is first there ends."""
    gates = [tmp_path / f"{number}.open" for number in range(3)]

    def let_the_first_go(index: int, event: Event) -> None:
        if isinstance(event, Progress) and event.steps and not any(map(Path.exists, gates)):
            gates[index].touch()

    with SyncClient(gated_url) as client:
        rows: list[Any] = [{"set": {"2.file": str(gate)}} for gate in gates]
        running = client.map(Gate(tmp_path).prompt, rows, at_most=3, on_event=let_the_first_go)
        for result in running:
            assert result.error is None
            break
    with comfy_remote.Record(home) as record:
        states = [entry.state for entry in record.newest(10)]
    assert sorted(state.value for state in states) == ["cancelled", "cancelled", "succeeded"]


def test_no_row_has_the_outputs_of_another() -> None:
    rows = [*({"seed": seed} for seed in range(8)), {"set": {"KSampler.steps": 5}}]
    with SyncClient("sandbox") as client:
        results = list(client.map(picture(steps=1), rows, at_most=4))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="changes are a dictionary"):
            list(client.map(picture(), range(3)))  # type: ignore[arg-type]
    made = [output.filename for result in results for output in result.outputs]
    assert sorted(made) == [f"lib_{number:05}_.png" for number in range(1, 9)]
    [failed] = [result for result in results if result.error is not None]
    assert failed.index == 8


async def test_the_asynchronous_one_yields_as_they_come(sandbox_url: str) -> None:
    async with Client(sandbox_url) as client:
        rows: list[Any] = [{"set": {"2.steps": 12}}, {"set": {"1.color": 1}}]
        workflow = picture(steps=1)
        order = [result.index async for result in client.map(workflow, rows, at_most=2)]
    assert sorted(order) == [0, 1]


# Again


async def test_a_job_is_resumed_or_attached(sandbox_url: str, home: Path, tmp_path: Path) -> None:
    async with Client(sandbox_url) as client:
        job = await client.submit(picture())
        await job.wait()
        again = await client.resume(job.id[:8])
        assert len(await again.outputs()) == 1
        with pytest.warns(DeprecationWarning, match="called resume"):
            await client.take_up(client.record.get(job.id))
        with pytest.warns(DeprecationWarning, match="called attach"):
            await client.adopt(job.ref.remote_id)
    async with attach(sandbox_url, job.ref.remote_id) as attached:  # which the record has
        assert attached.id == job.id
    with comfy_remote.Record(tmp_path / "another") as other:
        async with attach(sandbox_url, job.ref.remote_id, record=other) as attached:
            assert len(await attached.outputs()) == 1
        assert other.get(attached.id).target == sandbox_url
    async with resume(job.id) as resumed:
        assert (await resumed.wait()).state is JobState.SUCCEEDED


def test_or_without_await(client: SyncClient) -> None:
    job = client.submit(picture())
    job.wait()
    assert isinstance(client.resume(job.id), SyncJob)
    assert len(client.attach(job.id).outputs()) == 1


# Notebooks


def _output(path: Path, kind: Any, media_type: str) -> Output:
    size, spool = path.stat().st_size, TemporaryFolder("test")
    return Output("1", kind, path.name, "", "output", media_type, size, "", path, spool)


def test_a_notebook_shows_outputs_and_not_too_much_of_them(tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.new("RGB", (8, 8)).save(small)
    shown = _output(small, "image", "image/png")._repr_mimebundle_()
    assert base64.b64decode(shown["image/png"]) == small.read_bytes()
    noise = Image.effect_noise((3000, 2000), 90)
    noise.save(large := tmp_path / "large.png")
    shown = _output(large, "image", "image/png")._repr_mimebundle_()
    data = base64.b64decode(shown["image/jpeg"])
    assert Image.open(io.BytesIO(data)).size == (1024, 683)
    (text := tmp_path / "a.txt").write_text("é" * 50_000, encoding="utf-8")
    assert len(_output(text, "text", "text/plain")._repr_mimebundle_()["text/plain"]) == 10_000
    (film := tmp_path / "a.mp4").write_bytes(b"film")
    shown = _output(film, "video", 'video/mp4" onload="x')._repr_mimebundle_()
    assert 'onload="' not in shown["text/html"]
    film.write_bytes(bytes(5 * 1024 * 1024))
    assert set(_output(film, "video", "video/mp4")._repr_mimebundle_()) == {"text/plain"}
    (broken := tmp_path / "b.webp").write_bytes(b"no picture")
    assert set(_output(broken, "image", "image/webp")._repr_mimebundle_()) == {"text/plain"}


def test_progress_is_a_bar_and_a_sentence() -> None:
    progress = Progress(3, 7, "4", "K<Sampler", 12, 20)
    assert str(progress) == "3 of 7 nodes, K<Sampler 12/20"
    assert "value='0.514'" in progress._repr_html_()
    assert "K&lt;Sampler" in progress._repr_html_()


def test_a_notebook_shows_how_a_run_goes(sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    displayed: list[object] = []

    class Handle:
        def update(self, shown: object) -> None:
            displayed.append(shown)

    def display(shown: object, *, display_id: bool) -> Handle:
        assert display_id
        displayed.append(shown)
        return Handle()

    ipython = types.ModuleType("IPython")
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setattr(ipython, "get_ipython", lambda: shell, raising=False)
    module = types.SimpleNamespace(display=display)
    monkeypatch.setattr(ipython, "display", module, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    run(picture(steps=2), sandbox_url)
    assert any(isinstance(one, Progress) for one in displayed)
    assert repr(displayed[-1]) == "The job has succeeded."
    displayed.clear()
    del shell.kernel  # a terminal
    run(picture(), sandbox_url)
    assert displayed == []

"""What people and programs are told while a batch runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from json_lines import check_lines, events_of_schema
from rich.console import Console

from comfy_remote.batch.axes import Axis, Part
from comfy_remote.batch.events import (
    BatchEvent,
    GoesOn,
    Noted,
    RunBegan,
    RunEnded,
    RunFetches,
    RunProgress,
    RunSends,
    Stopped,
    Waits,
)
from comfy_remote.batch.forecast import BatchForecast
from comfy_remote.batch.frozen_rows import FrozenRows
from comfy_remote.batch.manifest import ManifestOutput, RunLine
from comfy_remote.batch.names import VariedInput
from comfy_remote.batch.values import Stored
from comfy_remote.cli.batch.live import LiveBatchReporter
from comfy_remote.cli.batch.reporter import (
    BatchReporter,
    JsonBatchReporter,
    PlainBatchReporter,
    Planned,
    QuietBatchReporter,
)
from comfy_remote.cli.batch.tally import Tally
from comfy_remote.cli.batch.words import axes_lines, exit_status
from comfy_remote.errors import LocalStorageError, TargetUnreachable
from comfy_remote.events import Progress
from comfy_remote.jobs.record import BatchEntry, BatchState, Wanted
from comfy_remote.schedule.money import Price

FORECAST = BatchForecast("gpu", 4, 2, 30.0, Price(0.36, "your settings"), 5)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def entry(folder: Path, state: BatchState = BatchState.RUNNING, **counts: int) -> BatchEntry:
    return BatchEntry(
        *("0" * 8 + "-0000-4000-8000-" + "0" * 12, "portrait", 0.0, 0.0, "gpu", "portrait.json"),
        *(folder, 4, state, None, Wanted.RUN),
        **counts,
    )


def line(row: int, state: str = "succeeded", **given: Any) -> RunLine:
    made = ManifestOutput(
        file=f"{row:04}/a.png",
        node="9",
        kind="image",
        media_type="image/png",
        size=3,
        sha256="0" * 64,
    )
    return RunLine(
        row=row,
        run=f"{row:04}_seed={row}",
        state=state,
        attempt=1,
        values={"seed": row},
        target="gpu",
        job="some-job",
        seconds=12.0,
        cost=0.25,
        outputs=[made] if state == "succeeded" else [],
        **given,
    )


FAILED = line(1, "failed", error={"code": "execution_failed", "message": "No memory."})


def events(folder: Path) -> list[BatchEvent]:
    """A batch of four: two succeed, one fails, then it is paused."""
    return [
        RunBegan(0, {"seed": 0}, "job-0"),
        RunSends(0, 1, 2),
        RunBegan(1, {"seed": 1}, "job-1", 2, True),
        RunProgress(0, Progress(1, 2, "3", "KSampler", 5, 20)),
        RunFetches(0, 3),
        RunEnded(line(0)),
        RunEnded(FAILED),
        Waits("gpu could not be reached."),
        GoesOn(),
        Noted("The target takes no more for now.", True),
        RunBegan(2, {"seed": 2}, "job-2"),
        RunEnded(line(2, problems=["9: it does not run"])),
        Stopped(
            entry(folder, BatchState.PAUSED, succeeded=2, failed=1), LocalStorageError("Full.")
        ),
    ]


def report(reporter: BatchReporter, folder: Path, tally: Tally, clock: Clock) -> None:
    """All that a batch says, each event ten seconds after the last."""
    with reporter:
        reporter.connecting("gpu")
        reporter.planned(PLANNED)
        reporter.reading(3)
        reporter.begins(tally)
        for event in events(folder):
            clock.now += 10
            tally.note(event)
            if isinstance(event, Stopped):
                reporter.stopped(event, [FAILED])
            else:
                reporter.happened(event)
                clock.now += 20
                reporter.waiting()


PLANNED = Planned(
    ["4 runs on gpu: seed (4).", "  seed: 0, 1, 2, 3", FORECAST.sentence()],
    {
        "target": "gpu",
        "source": "portrait.json",
        "count": 4,
        "combinations": 4,
        "repeat": 1,
        "sample_seed": None,
        "axes": [{"names": ["seed"], "count": 4}],
        "estimate": FORECAST.to_json(),
        "problems": [],
    },
    dry=False,
)


def test_a_forecast_says_what_is_known() -> None:
    assert FORECAST.seconds == 60 and FORECAST.price == pytest.approx(0.012)
    assert FORECAST.sentence() == (
        "About 60 s and $0.01 on gpu, 2 at a time, from 5 earlier runs of this workflow."
    )
    unknown = BatchForecast("gpu", 4, 2, None, Price(0.36, "your settings"), 0)
    assert unknown.price is None
    assert "is not known: this workflow has not run on gpu yet" in unknown.sentence()


def test_json_lines_are_those_of_the_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    reporter = JsonBatchReporter(clock)
    report(reporter, tmp_path, Tally(entry(tmp_path), clock=clock), clock)
    reporter.in_background(entry(tmp_path))
    reporter.note("words")
    reporter.failed(TargetUnreachable("gone"), None, resumable=False)
    lines = check_lines(capsys.readouterr().out.splitlines())
    expected = {name for name in events_of_schema() if name.startswith(("batch", "run_"))}
    assert {one["event"] for one in lines} == expected | {"log", "error"}
    assert all(one["version"] == 1 for one in lines)
    assert {one["batch_id"] for one in lines[1:]} == {entry(tmp_path).id}
    [ended] = [one for one in lines if one["event"] == "batch_ended"]
    assert (ended["succeeded"], ended["failed"], ended["left"]) == (2, 1, 1)
    assert ended["failed_runs"] == ["0001_seed=1"] and ended["error"]["message"] == "Full."
    assert ended["command"].endswith("batch resume portrait")
    assert [one["line"]["row"] for one in lines if one["event"] == "run_ended"] == [0, 1, 2]


def test_plain_lines_come_every_twenty_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    report(PlainBatchReporter(clock), tmp_path, Tally(entry(tmp_path), clock=clock), clock)
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / f"{row:04}/a.png") for row in (0, 2)]
    said = err.splitlines()
    assert "[1/4] 0000_seed=0 in 12 s, 1 file." in said
    assert "[2/4] 0001_seed=1 failed: No memory." in said
    assert "Warning: 0002_seed=2: 9: it does not run" in said
    assert "Waiting: gpu could not be reached." in said
    assert any(one.startswith("2 of 4, 1 failed, ") for one in said)
    assert any("2 of 4 runs succeeded, 1 failed in " in one for one in said)
    assert said[-1].startswith("Go on with it: ") and said[-1].endswith("batch resume portrait")
    assert err.count("No memory.") == 1, "what was said is not said again at the end"
    assert len(said) >= 13, "a silence of twenty seconds ends with a line"


def test_a_batch_that_was_over_has_no_run_to_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    over = entry(tmp_path, BatchState.ENDED, succeeded=4)
    reporter = PlainBatchReporter(Clock())
    reporter.begins(Tally(over, clock=Clock()))
    reporter.stopped(Stopped(over), [])
    said = capsys.readouterr().err.splitlines()
    assert said == ["Done: 4 of 4 runs succeeded.", f"Outputs: {tmp_path}"]


def test_quietly_only_paths_and_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    report(QuietBatchReporter(clock), tmp_path, Tally(entry(tmp_path), clock=clock), clock)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert err.splitlines()[:3] == [
        "0001_seed=1 failed: No memory.",
        "Warning: The target takes no more for now.",
        "Warning: 0002_seed=2: 9: it does not run",
    ]
    assert "Going on" not in err and "About 60 s" not in err


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_the_live_display_fits_in_eighty_columns(encoding: str, tmp_path: Path) -> None:
    written = io.BytesIO()
    # As the entry point sets it.
    options = {"errors": "backslashreplace", "write_through": True}
    file = io.TextIOWrapper(written, encoding=encoding, **options)
    console = Console(file=file, width=80, height=24, force_terminal=True, color_system=None)
    clock = Clock()
    tally = Tally(entry(tmp_path), clock=clock)
    reporter = LiveBatchReporter(console=console)

    def shown() -> list[str]:
        other = Console(file=io.StringIO(), width=80, height=24, color_system=None)
        other.print(reporter._view())
        assert isinstance(other.file, io.StringIO)
        return other.file.getvalue().splitlines()

    with reporter:
        reporter.planned(PLANNED)
        reporter.begins(tally)
        tally.note(RunBegan(0, {"prompt": "a cat " * 30, "KSampler.seed": 7}, "job"))
        for row in range(1, 30):
            tally.note(RunBegan(row, {}, "job"))
        tally.note(RunProgress(0, Progress(1, 2, "3", "KSampler", 5, 20)))
        tally.note(RunSends(1, 500_000, 2_000_000))
        lines = shown()
        assert max(map(len, lines)) <= 80 and len(lines) < 24
        assert "0 of 4" in lines[0] and "30 under way" in lines[0]
        assert "step 5/20" in lines[1] and "KSampler.seed" not in lines[1][80:]
        assert "sending, 500 kB of 2.0 MB" in lines[2]
        reporter.happened(Waits("It begins at 23:00."))
        assert "Waiting" in shown()[0]
        reporter.happened(RunEnded(FAILED))
        reporter.stopped(Stopped(entry(tmp_path, BatchState.ENDED, succeeded=4)), [])
    end = written.getvalue().decode(encoding)
    assert "0001_seed=1 failed: No memory." in end and "Done: 4 of 4 runs succeeded" in end


def test_how_long_it_still_takes(tmp_path: Path) -> None:
    clock = Clock()
    tally = Tally(entry(tmp_path), expected=60.0, clock=clock)
    assert tally.seconds_left() == 60
    for row in (0, 1):
        tally.note(RunBegan(row, {}, "job"))
    clock.now += 8
    for row in (0, 1):
        tally.note(RunEnded(line(row)))
    # Two at a time, then one, each for eight seconds: two are left.
    assert tally.seconds_left() == pytest.approx(2 * 8 / 1.5)
    assert tally.cost == 0.5 and tally.left == 2


@pytest.mark.parametrize(
    ("state", "counts", "error", "status"),
    [
        (BatchState.ENDED, {"succeeded": 4}, None, 0),
        (BatchState.ENDED, {"succeeded": 3, "failed": 1}, None, 5),
        (BatchState.CANCELLED, {"succeeded": 3}, None, 130),
        (BatchState.PAUSED, {"succeeded": 3}, None, 8),
        (BatchState.PAUSED, {"succeeded": 3}, LocalStorageError("Full."), 7),
        (BatchState.PAUSED, {"failed": 3}, TargetUnreachable("Gone."), 3),
        (BatchState.RUNNING, {"succeeded": 3}, None, 8),
    ],
)
def test_the_exit_status(
    tmp_path: Path, state: BatchState, counts: dict[str, int], error: Any, status: int
) -> None:
    assert exit_status(Stopped(entry(tmp_path, state, **counts), error)) == status


def test_texts_with_commas_do_not_run_into_each_other() -> None:
    prompt = VariedInput("prompt", (("6", "text"),), file=False)
    preview = VariedInput("2.preview", (("2", "preview"),), file=False)
    rows = FrozenRows()
    for value in ("a cat, asleep", "a dog", True, False):
        rows.add([value])
    texts, switches = Stored(rows, 0, 2), Stored(rows, 2, 2)
    axes = [Axis((Part((prompt,), texts),)), Axis((Part((preview,), switches),))]
    assert axes_lines(axes) == ["  prompt: a cat, asleep; a dog", "  2.preview: true, false"]

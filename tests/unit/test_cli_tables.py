"""Tables at a terminal: what a person may want to copy is neither cut nor split."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from rich.table import Column

from comfy_remote.cli.console import print_table, wrapped
from comfy_remote.cli.live import LiveReporter
from comfy_remote.cli.sync_shown import print_plan
from comfy_remote.jobs.record import SavedOutput
from comfy_remote.ready.lock import Address, Lock, LockedModel
from comfy_remote.ready.plan import There, compare
from comfy_remote.ready.sync.steps import Speeds, SyncPlan, Ways, steps_of

ADDRESS = "https://xedezhzb9la3ye-8188.proxy.runpod.net"
ERROR = "The target has been out of reach for 60 s, and nobody knows why that is so."


def columns(*others: str) -> list[Column | str]:
    """New ones: a table keeps its cells in them."""
    cut = Column("Target", overflow="ellipsis", no_wrap=True)
    return [Column("Job", no_wrap=True), cut, *others]


def terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """Standard output is one. In the test itself: pytest replaces the stream before it."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_cell_is_whole_at_any_width(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    width: int,
) -> None:
    terminal(monkeypatch, width)
    rows = [("ea9c6876", ADDRESS, "a rather long name (1).json", ERROR), ("b1", "sandbox", "x", "")]
    print_table(columns("Workflow", "Result"), rows, may_be_cut=["Result"])
    lines = printed(capsys)
    assert any(ADDRESS in line for line in lines)
    assert any("a rather long name (1).json" in line for line in lines)
    if width == 200:
        assert next(line for line in lines if line.strip()).split()[0] == "Job"
        assert len([line for line in lines if line.strip()]) == 4  # heading, rule, two rows
    elif width == 80:
        blank = " " * 10
        assert lines == [
            f"Job       {'Target':<{len(ADDRESS)}}  Workflow · Result",
            f"ea9c6876  {ADDRESS}",
            f"{blank}a rather long name (1).json · The target has been out of reach for 60",
            f"{blank}s, and nobody knows why that is so.",
            f"b1        {'sandbox':<{len(ADDRESS)}}  x",
        ]
    else:
        assert lines == [
            "Job         ea9c6876",
            f"  Target    {ADDRESS}",
            "  Workflow  a rather long name (1).json",
            "  Result    The target has been out of",
            "            reach for 60 s, and nobody",
            "            knows why that is so.",
            "Job         b1",
            "  Target    sandbox",
            "  Workflow  x",
        ]


def test_prose_is_broken_between_words_and_what_is_copied_never() -> None:
    text = "Run `comfy-remote jobs resume ea9c6876`, or look: comfy-remote jobs show ea9c --json"
    assert wrapped(text, 2, 30).splitlines() == [
        "  Run",
        "  `comfy-remote jobs resume ea9c6876`,",
        "  or look:",
        "  comfy-remote jobs show ea9c --json",
    ]


def test_only_a_sentence_loses_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch, 80)
    print_table(columns("Result"), [("ea9c6876", ADDRESS, ERROR)], may_be_cut=["Result"])
    _, _, row = [line.strip() for line in printed(capsys) if line.strip()]
    job, address, result = row.split(maxsplit=2)
    assert (job, address) == ("ea9c6876", ADDRESS)
    assert result.startswith("The target has been") and result.endswith("…")
    assert len(row) <= 80


def test_a_sentence_that_somebody_says_yes_to_is_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(monkeypatch, 80)
    print_table(columns("Result"), [("ea9c6876", ADDRESS, ERROR)], sentences=["Result"])
    assert ERROR in " ".join(" ".join(printed(capsys)).split())


@pytest.mark.parametrize("width", [80, 100, 120])
def test_no_address_of_a_plan_is_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    urls = [f"https://huggingface.co{more}/O/R/resolve/main/ae.safetensors" for more in ("", ".ev")]
    models = [
        LockedModel(
            folder="loras", name=f"{n}.safetensors", addresses=(Address(by="workflow", url=url),)
        )
        for n, url in enumerate(urls)
    ]
    compared = compare(Lock(models=tuple(models)), There("gpu", models={}))
    plan = SyncPlan(compared, tuple(steps_of(compared, Ways(), {})), Speeds())
    terminal(monkeypatch, width)
    print_plan(plan, kinds=frozenset({"model"}), everything=False, command=["comfy-remote sync"])
    text = "\n".join(printed(capsys))
    assert all(url in text for url in urls)


@pytest.mark.parametrize(("made", "shown"), [(3, 3), (21, 21), (300, 20)])
def test_a_person_does_not_get_hundreds_of_lines(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    made: int,
    shown: int,
) -> None:
    terminal(monkeypatch, 40)
    folder = tmp_path / "a folder with a name that is longer than the line"
    outputs = [
        SavedOutput(folder / f"night_{number:05}_.png", "4", "image", "x", "0" * 64, 1000)
        for number in range(made)
    ]
    LiveReporter(pictures=False).done(outputs, 3.0)
    lines = printed(capsys)
    assert [str(output.path) in "\n".join(lines) for output in outputs].count(True) == shown
    if made == 300:
        assert lines[-1] == f"… and 280 more in {folder}"
    assert len(lines) == shown + (made > shown)

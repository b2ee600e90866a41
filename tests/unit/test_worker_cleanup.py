"""What a job wrote is removed, and nothing else is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from fake_target import output
from pydantic import JsonValue

from comfy_remote.targets.engine_files import EngineFolders, folders_in
from comfy_remote.worker import cleanup
from comfy_remote.worker.cleanup import Cleaner
from comfy_remote.workflow.graph import linked_node
from comfy_remote.workflow.prompt import Prompt


def stats(*argv: str) -> dict[str, Any]:
    return {"system": {"argv": list(argv)}}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["/c/main.py"], ("/c/input", "/c/output", "/c/temp")),
        (["main.py", "--base-directory", "/b"], ("/b/input", "/b/output", "/b/temp")),
        (["main.py", "--base-directory=/b"], ("/b/input", "/b/output", "/b/temp")),
        (
            ["/c/main.py", "--output-directory", "/o", "--temp-directory", "/t"],
            ("/c/input", "/o", "/t/temp"),
        ),
        (["main.py"], None),
        (["/c/main.py", "--output-directory", "out"], None),
        (["/c/main.py", "--base-directory"], ("/c/input", "/c/output", "/c/temp")),
        ([], None),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="paths as on POSIX")
def test_the_folders_are_those_the_engine_was_started_with(
    argv: list[str], expected: tuple[str, ...] | None
) -> None:
    found = folders_in(stats(*argv))
    assert found == (EngineFolders(*map(Path, expected)) if expected else None)


@pytest.mark.skipif(os.name == "nt", reason="paths as on POSIX")
def test_relative_folders_are_below_that_of_an_engine_that_was_started_in_it() -> None:
    argv = ["/c/main.py", "--base-directory", "b", "--output-directory", "/o", "--temp-directory=t"]
    assert folders_in(stats(*argv)) is None
    assert folders_in(stats(*argv), started_here=True) == EngineFolders(
        Path("/c/b/input"), Path("/o"), Path("/c/t/temp")
    )
    assert folders_in(stats("main.py"), started_here=True) is None


async def clean(base: Path, names: list[str], **more: Any) -> Cleaner:
    cleaner = Cleaner()
    await cleaner.remove_files(
        EngineFolders(base / "input", base / "output", base / "temp"),
        more.pop("prompt", {}),
        [output(name) for name in names],
        more.pop("uploaded", []),
        since=time.time() - 5,
    )
    return cleaner


async def test_only_files_of_the_job_below_the_folders_are_removed(tmp_path: Path) -> None:
    base, outside = tmp_path / "base", tmp_path / "secret.png"
    for name in ("output", "input", "temp"):
        (base / name).mkdir(parents=True)
    outside.write_bytes(b"x")
    old, new, sent = base / "output/old.png", base / "output/new.png", base / "input/sent.png"
    for path in (old, new, sent):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 100,) * 2)
    names = ["new.png", "old.png", "../../secret.png", str(outside), "\0", "gone.png"]
    if os.name == "posix":
        (base / "output/link.png").symlink_to(outside)
        names.append("link.png")
    await clean(base, names, uploaded=["sent.png", "../../secret.png"])
    assert outside.exists()
    assert old.exists()
    assert not new.exists()
    assert not sent.exists()


async def test_nodes_whose_files_are_gone_run_again_and_no_others(tmp_path: Path) -> None:
    def prompt(color: int, shift: int = 0) -> dict[str, Any]:
        one, two, three = (str(n + shift) for n in (1, 2, 3))
        return {
            one: {"class_type": "EmptyImage", "inputs": {"color": color}},
            two: {"class_type": "SaveImage", "inputs": {"images": [one, 0]}},
            three: {"class_type": "PreviewAny", "inputs": {"source": [one, 0]}},
        }

    cleaner = await clean(tmp_path, ["a.png"], prompt=prompt(1))  # of node 2
    again = cleaner.runnable(prompt(1))
    assert again["1"] == prompt(1)["1"]
    assert again["3"] == prompt(1)["3"]
    assert again["2"]["inputs"]["images"] == ["1", 0]
    assert len(again["2"]["inputs"]) == 2
    assert cleaner.runnable(prompt(1)) != again  # each time anew
    assert cleaner.runnable(prompt(2)) == prompt(2)  # it is not the same node then
    assert len(cleaner.runnable(prompt(1, shift=10))["12"]["inputs"]) == 2  # other ids, the same


def test_a_worker_that_stays_up_remembers_a_bounded_number_of_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cleanup, "_MOST_REMOVED", 3)
    cleaner = Cleaner()
    prompts: list[dict[str, Any]] = [
        {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": str(n)}}} for n in range(9)
    ]
    for prompt in prompts:
        cleaner.run_again(prompt, [output("a.png", node_id="1")])
    again = [prompt for prompt in prompts if cleaner.runnable(prompt) != prompt]
    assert again == prompts[-3:]


async def test_a_long_chain_is_looked_through_once_and_a_cycle_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = 2_000
    chain: dict[str, Any] = {"0": {"class_type": "EmptyImage", "inputs": {}}} | {
        str(n): {"class_type": "ImageInvert", "inputs": {"image": [str(n - 1), 0]}}
        for n in range(1, length)
    }
    chain["end"] = {"class_type": "SaveImage", "inputs": {"images": [str(length - 1), 0]}}
    looked_at = 0

    def counted(prompt: Prompt, value: JsonValue) -> tuple[str, int] | None:
        nonlocal looked_at
        looked_at += 1
        return linked_node(prompt, value)

    made_by_the_end = output("a.png", node_id="end")
    cleaner = Cleaner()
    cleaner.run_again(chain, [made_by_the_end])
    monkeypatch.setattr(cleanup, "linked_node", counted)
    again = cleaner.runnable(chain)
    assert [name for name in chain if again[name] != chain[name]] == ["end"]
    assert looked_at < 10 * length  # and not its square: the worker's event loop waits for this

    cycle: dict[str, Any] = {
        "1": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    }
    assert cleaner.runnable(cycle) == cycle

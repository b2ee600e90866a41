"""Events, and what `--json` prints of them."""

from __future__ import annotations

import base64
import json
from typing import get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.errors import OutOfMemory
from comfy_remote.events import (
    DidItRun,
    Event,
    Finished,
    JobState,
    Log,
    NodeText,
    OutputReady,
    Phase,
    Preview,
    Progress,
    Queued,
    Shown,
    Started,
    event_to_json,
)
from comfy_remote.outputs import OutputSource, RemoteOutput, kind_of, media_type_of

OUTPUT = RemoteOutput(
    node_id="9",
    kind="image",
    filename="x.png",
    subfolder="a",
    media_type="image/png",
    size=3,
    source=OutputSource(url="https://storage.example/x.png?signature=abc"),
)
EXAMPLES: list[tuple[Event, dict[str, object]]] = [
    (Queued(2), {"event": "queued", "position": 2}),
    (Phase("starting", 92.0), {"event": "phase", "phase": "starting", "usual_seconds": 92.0}),
    (Started(), {"event": "started"}),
    (
        Progress(1, 4, "3", "KSampler", 5.0, 20.0, "sampling"),
        {
            "event": "progress",
            "nodes_done": 1,
            "nodes_total": 4,
            "node_id": "3",
            "node_class": "KSampler",
            "step": 5.0,
            "steps": 20.0,
            "fraction": 0.3125,
            "message": "sampling",
            "estimated": False,
        },
    ),
    (
        Preview("3", "image/jpeg", b"\xff\xd8"),
        {
            "event": "preview",
            "node_id": "3",
            "media_type": "image/jpeg",
            "data": base64.b64encode(b"\xff\xd8").decode(),
        },
    ),
    (
        Shown("9", {"images": None, "count": [2]}),
        {"event": "shown", "node_id": "9", "values": {"images": None, "count": [2]}},
    ),
    (NodeText("9", "two\nlines"), {"event": "text", "node_id": "9", "text": "two\nlines"}),
    (OutputReady(OUTPUT), {"event": "output", "output": OUTPUT.to_json()}),
    (
        Log("Trying again.", "warning"),
        {"event": "log", "level": "warning", "message": "Trying again."},
    ),
    (
        Finished(
            JobState.FAILED,
            OutOfMemory("Full."),
            details={"run_seconds": 1.5},
            shown={"9": {"count": [2]}},
        ),
        {
            "event": "finished",
            "state": "failed",
            "error": OutOfMemory("Full.").to_json(),
            "details": {"run_seconds": 1.5},
            "problems": [],
            "shown": {"9": {"count": [2]}},
        },
    ),
]


def test_every_event_has_an_example_here() -> None:
    """A new event fails this test until it has a JSON form, and an example above."""
    assert {type(event) for event, _ in EXAMPLES} == {
        get_origin(one) or one for one in get_args(Event)
    }


@pytest.mark.parametrize(("event", "expected"), EXAMPLES, ids=lambda v: type(v).__name__)
def test_json_of_an_event(event: Event, expected: dict[str, object]) -> None:
    assert json.loads(json.dumps(event_to_json(event))) == expected


def test_the_bytes_and_addresses_of_outputs_are_not_printed() -> None:
    assert "signature" not in json.dumps(event_to_json(OutputReady(OUTPUT)))
    assert "signature" not in repr(OutputReady(OUTPUT))
    assert "xff" not in repr(Preview(None, "image/png", b"\xff" * 100))


def test_a_state_is_shown_as_its_word() -> None:
    assert f"{JobState.QUEUED} {DidItRun.STOPPED!s}" == "queued stopped"


def test_the_last_four_states_are_final() -> None:
    assert [state.value for state in JobState if not state.final] == ["queued", "running"]


@given(
    done=st.integers(0, 100),
    total=st.integers(0, 100),
    step=st.none() | st.floats(0, 1e6),
    steps=st.none() | st.floats(0, 1e6),
)
def test_a_fraction_is_between_nothing_and_all(
    done: int, total: int, step: float | None, steps: float | None
) -> None:
    assert 0.0 <= Progress(done, total, step=step, steps=steps).fraction <= 1.0


@pytest.mark.parametrize(
    ("filename", "kind", "media_type"),
    [
        ("x.PNG", "image", "image/png"),
        ("x.webp", "image", "image/webp"),
        ("x.mp4", "video", "video/mp4"),
        ("x.mkv", "video", "video/x-matroska"),
        ("x.flac", "audio", "audio/flac"),
        ("x.opus", "audio", "audio/ogg"),
        ("x.glb", "3d", "model/gltf-binary"),
        ("x.ply", "3d", "model/ply"),
        ("x.txt", "text", "text/plain"),
        ("x.latent", "file", "application/octet-stream"),
        ("x", "file", "application/octet-stream"),
        ("", "file", "application/octet-stream"),
    ],
)
def test_an_output_is_what_its_ending_says(filename: str, kind: str, media_type: str) -> None:
    assert kind_of(filename) == kind
    assert media_type_of(filename) == media_type

"""Which way a model comes to a target, and why; all of it pure."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_server import sha256
from sync_kit import lock_of, locked

from comfy_remote.ready.hashing import LocalModel
from comfy_remote.ready.plan import There, compare
from comfy_remote.ready.sync.steps import Here, Speeds, Step, SyncPlan, Way, Ways, steps_of
from comfy_remote.wire.installed import ModelFile

A, B = b"a" * 1000, b"b" * 1000
HF = {"by": "huggingface", "url": "hf:org/repo/a.safetensors@main"}
SIGNED = {"by": "workflow", "url": "https://models.example/a.safetensors?token=planted-secret"}
HERE = Here(LocalModel("loras", "a.safetensors", Path("here"), len(A)), sha256(A))
ALL = Ways()
NO_WORKER = Ways(fetch="it fetches nothing", link="it links nothing", send="it takes nothing")


def step(
    *addresses: dict[str, str],
    ways: Ways = ALL,
    here: Here | None = None,
    there: dict[str, list[ModelFile]] | None = None,
    content: bytes | None = A,
) -> Step:
    lock = lock_of(locked("loras/a.safetensors", content, *addresses))
    plan = compare(lock, There("gpu", models=there if there is not None else {}))
    (one,) = steps_of(plan, ways, {"loras/a.safetensors": here} if here else {})
    return one


def test_what_is_there_needs_nothing() -> None:
    there = {"loras": [ModelFile(name="a.safetensors", size=len(A), sha256=sha256(A))]}
    assert step(HF, there=there).way is Way.NONE
    unknown = {"loras": [ModelFile(name="a.safetensors", size=len(A))]}
    assert step(HF, there=unknown).way is Way.NONE


def test_the_same_bytes_under_another_name_are_linked_and_not_sent() -> None:
    there = {"checkpoints": [ModelFile(name="x.safetensors", size=len(A), sha256=sha256(A))]}
    one = step(HF, here=HERE, there=there)
    assert (one.way, one.size) == (Way.LINK, 0)
    assert one.why == "checkpoints/x.safetensors there is the same file"
    assert step(HF, here=HERE, there=there, ways=Ways(link="too old")).way is Way.FETCH


def test_an_address_goes_before_an_upload() -> None:
    one = step(HF, here=HERE)
    assert (one.way, one.why, one.size) == (Way.FETCH, f"from {HF['url']}", len(A))
    assert one.sent == 0
    assert "cannot be checked" in step(HF, content=None).why


@pytest.mark.parametrize(
    ("ways", "way"),
    [
        (Ways(), Way.SEND),
        (Ways(volume="the volume v"), Way.VOLUME),
        (Ways(send="RunPod takes none", bucket="the bucket b"), Way.BUCKET),
        (Ways(send="RunPod takes none"), Way.IMPOSSIBLE),
        (
            Ways(fetch="it fetches nothing", send="it takes none", bucket="the bucket b"),
            Way.IMPOSSIBLE,
        ),
        (NO_WORKER, Way.IMPOSSIBLE),
    ],
)
def test_what_has_no_address_is_sent_as_it_can_be(ways: Ways, way: Way) -> None:
    one = step(here=HERE, ways=ways)
    assert one.way is way
    assert one.sent == (0 if way is Way.IMPOSSIBLE else len(A))


def test_why_there_is_no_way_is_said() -> None:
    assert step().why == "no address of it is known, and it is not on this machine"
    assert step(HF, ways=NO_WORKER).why == "it fetches nothing; it is not on this machine"
    other = Here(HERE.file, sha256(B))
    assert (
        step(here=other).why == f"the file here ({Path('here/a.safetensors')}) has another content"
    )
    assert step(here=HERE, ways=NO_WORKER).why == "it takes nothing"


def test_another_file_of_that_name_is_never_replaced() -> None:
    there = {"loras": [ModelFile(name="a.safetensors", size=len(B), sha256=sha256(B))]}
    one = step(HF, here=HERE, there=there)
    assert one.way is Way.IMPOSSIBLE
    assert "it is not replaced" in one.why


@pytest.mark.parametrize("name", ["loras/a.py", "loras/a", "loras/.hidden.safetensors"])
def test_what_has_no_name_of_a_model_goes_nowhere(name: str) -> None:
    plan = compare(lock_of(locked(name, A, HF)), There("gpu", models={}))
    for ways in (ALL, Ways(volume="the volume v")):
        (one,) = steps_of(plan, ways, {name: HERE})
        assert (one.way, "does not end as a model's file does" in one.why) == (Way.IMPOSSIBLE, True)


def test_a_token_in_an_address_is_not_shown() -> None:
    assert "planted-secret" not in step(SIGNED).why


def test_time_and_bytes() -> None:
    lock = lock_of(locked("loras/a.safetensors", A), locked("loras/b.safetensors", B, HF))
    plan = compare(lock, There("gpu", models={}))
    steps = tuple(steps_of(plan, Ways(), {"loras/a.safetensors": HERE}))
    made = SyncPlan(plan, steps)
    assert (made.sent, made.fetched, made.seconds) == (1000, 1000, None)
    assert made.time_words() == (
        "0.1 s to send 1.0 kB on a line of 100 Mbit/s up; the target's line decides how long it "
        "fetches 1.0 kB"
    )
    known = SyncPlan(plan, steps, Speeds(sent=100.0, fetched=50.0))
    assert known.seconds == 30.0
    assert known.time_words() == "about 30 s, at the speed of earlier syncs"
    document = known.to_json()
    assert (document["bytes_to_send"], document["bytes_to_fetch"]) == (1000, 1000)

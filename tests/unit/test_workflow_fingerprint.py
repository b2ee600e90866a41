"""The fingerprint: what changes it, and what does not."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.fingerprint import fingerprint
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas

SCHEMAS = Schemas.bundled()


def node(class_type: str, **inputs: Any) -> Any:
    return {"class_type": class_type, "inputs": inputs}


def blended() -> Prompt:
    return {
        "1": node("LoadImage", image="cat.png"),
        "2": node("ImageScale", image=["1", 0], width=64, height=32, crop="disabled"),
        "3": node("ImageInvert", image=["2", 0]),
        "4": node("ImageBlend", image1=["2", 0], image2=["3", 0], blend_factor=0.5),
        "5": node("SaveImage", images=["4", 0], filename_prefix="night"),
    }


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda found: {"__value__": found})
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=4,
)


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    """Any directed graph without cycles: each node is linked to earlier ones only."""
    prompt: Prompt = {}
    for number in range(draw(st.integers(1, 8))):
        inputs: dict[str, Any] = draw(st.dictionaries(st.sampled_from("abcd"), values, max_size=3))
        if number:
            for name in draw(st.sets(st.sampled_from("xyz"))):
                inputs[name] = [str(draw(st.integers(0, number - 1))), draw(st.integers(0, 2))]
        prompt[str(number)] = node(draw(st.sampled_from(["A", "B"])), **inputs)
    return prompt


def renamed(prompt: Prompt, seed: int) -> Prompt:
    """The same under other ids, nodes and inputs in another order, with titles."""
    rng = random.Random(seed)
    names = {node_id: f"{rng.random()}:{node_id}" for node_id in prompt}
    shuffled: Prompt = {}
    for node_id in rng.sample(list(prompt), len(prompt)):
        inputs = prompt[node_id]["inputs"]
        shuffled[names[node_id]] = {
            "class_type": prompt[node_id]["class_type"],
            "inputs": {
                key: [names[value[0]], value[1]] if isinstance(value, list) else value
                for key in rng.sample(list(inputs), len(inputs))
                for value in [inputs[key]]
            },
            "_meta": {"title": str(rng.random())},
        }
    return shuffled


@given(prompts(), st.integers(0, 2**32))
def test_ids_order_and_titles_do_not_matter(prompt: Prompt, seed: int) -> None:
    assert fingerprint(renamed(prompt, seed)) == fingerprint(prompt)


@given(prompts(), st.data())
def test_every_value_matters(prompt: Prompt, data: st.DataObject) -> None:
    places = [(i, key) for i, n in prompt.items() for key in n["inputs"]]
    before = fingerprint(prompt)
    if not places:
        return
    node_id, key = data.draw(st.sampled_from(places))
    old = prompt[node_id]["inputs"][key]
    prompt[node_id]["inputs"][key] = {"was": old}
    after = fingerprint(prompt)
    # A link that is cut can turn what was behind it into an output; that is a change, too.
    assert after != before
    del prompt[node_id]["inputs"][key]
    assert fingerprint(prompt) not in (before, after)


@pytest.mark.parametrize(
    ("node_id", "key", "value"),
    [
        ("2", "width", 65),
        ("2", "width", "64"),
        ("2", "width", True),
        ("2", "crop", "center"),
        ("2", "crop", ["1", 0]),
        ("3", "image", ["1", 0]),
        ("3", "image", ["2", 1]),
        ("4", "blend_factor", 0.25),
        ("1", "image", "dog.png"),
        ("5", "filename_prefix", "day"),
    ],
)
def test_a_change_of_one_input(node_id: str, key: str, value: Any) -> None:
    changed = blended()
    changed[node_id]["inputs"][key] = value
    assert fingerprint(changed, schemas=SCHEMAS) != fingerprint(blended(), schemas=SCHEMAS)


def test_the_order_of_links_matters() -> None:
    swapped = blended()
    inputs = swapped["4"]["inputs"]
    inputs["image1"], inputs["image2"] = inputs["image2"], inputs["image1"]
    assert fingerprint(swapped) != fingerprint(blended())


def test_dead_branches_do_not_matter() -> None:
    dead = blended()
    dead["9"] = node("VAEDecode", samples=["8", 0], vae=["8", 2])
    dead["8"] = node("CheckpointLoaderSimple", ckpt_name="big.safetensors")
    dead["7"] = node("ImageInvert", image=["7", 0])  # not even a cycle
    assert fingerprint(dead, schemas=SCHEMAS) == fingerprint(blended(), schemas=SCHEMAS)
    # Without schemas, who knows what VAEDecode does.
    del dead["7"]
    assert fingerprint(dead) != fingerprint(blended())


def test_outputs_of_a_pack_that_the_schemas_lack() -> None:
    prompt = blended()
    prompt["6"] = node("PackSave", images=["4", 0])
    assert fingerprint(prompt, schemas=SCHEMAS) != fingerprint(blended(), schemas=SCHEMAS)


def test_a_second_equal_output_matters_but_a_shared_node_does_not() -> None:
    twice = blended()
    twice["6"] = node("SaveImage", images=["4", 0], filename_prefix="night")
    assert fingerprint(twice) != fingerprint(blended())
    apart = blended()
    apart["6"] = node("LoadImage", image="cat.png")
    apart["7"] = node("ImageScale", image=["6", 0], width=64, height=32, crop="disabled")
    apart["3"]["inputs"]["image"] = ["7", 0]
    assert fingerprint(apart) == fingerprint(blended())


def test_numbers_are_equal_as_json_has_them() -> None:
    whole = blended()
    whole["2"]["inputs"].update(width=64.0, height=32.0)
    assert fingerprint(whole) == fingerprint(blended())
    seeds = [fingerprint({"1": node("A", seed=seed)}) for seed in (2**64 - 1, 2**64 - 2, True, 1)]
    assert len(set(seeds)) == 4


def test_a_wrapped_list_is_the_list() -> None:
    wrapped = {"1": node("A", points={"__value__": [1, 2, 3]})}
    assert fingerprint(wrapped) == fingerprint({"1": node("A", points=[1, 2, 3])})


def test_no_value_can_pass_for_a_link_or_a_file() -> None:
    shared = {"1": node("A"), "2": node("B", x=["1", 0])}
    a = fingerprint({"1": node("A")})
    assert fingerprint({"2": node("B", x={"link": a, "output": 0})}) != fingerprint(shared)
    loaded = {"1": node("LoadImage", image="cat.png")}
    posed = {"1": node("LoadImage", image={"file": "00" * 32})}
    assert fingerprint(loaded, file_hashes={"cat.png": "00" * 32}) != fingerprint(posed)


def test_the_content_of_a_file_counts_not_its_name() -> None:
    other = blended()
    other["1"]["inputs"]["image"] = "holiday/dog.png [input]"
    assert fingerprint(other) != fingerprint(blended())
    one = fingerprint(blended(), file_hashes={"cat.png": "ab" * 32})
    assert fingerprint(other, file_hashes={"holiday/dog.png": "ab" * 32}) == one
    assert fingerprint(blended(), file_hashes={"cat.png": "cd" * 32}) != one
    assert fingerprint(blended(), file_hashes={"else.png": "ab" * 32}) == fingerprint(blended())


def test_a_long_chain_and_much_sharing_are_quick() -> None:
    chain: Prompt = {"0": node("EmptyImage", width=8)}
    sharing: Prompt = {"0": node("EmptyImage", width=8)}
    for number in range(1, 10_000):
        before = [str(number - 1), 0]
        chain[str(number)] = node("ImageInvert", image=before)
        sharing[str(number)] = node("ImageBlend", image1=before, image2=before)
    began = time.process_time()
    assert fingerprint(chain) != fingerprint(sharing)
    # Sharing taken apart would be 2**10_000 nodes; a second is not measured here, but an end.
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({}, "No node of the workflow is an output"),
        ({"1": node("A", x=["1", 0])}, "1 (A) needs 1 (A)"),
        (
            {"1": node("A", x=["2", 0]), "2": node("B", x=["1", 0]), "3": node("C", x=["1", 0])},
            "1 (A) needs 2 (B) needs 1 (A)",
        ),
        ({"1": node("A", x=["2", 0]), "2": node("B", x=["1", 0])}, "cycle"),
        ({"1": node("A", x=["2", 0])}, "node 2, which is not there"),
        ({"1": node("A", x=float("inf"))}, "node 1 cannot be written as JSON"),
        ({"1": node("A", x={"deep": float("nan")})}, "node 1 cannot be written as JSON"),
    ],
)
def test_what_has_no_meaning(prompt: Prompt, words: str) -> None:
    with pytest.raises(WorkflowInvalid) as caught:
        fingerprint(prompt)
    assert words in caught.value.message


def test_no_output_among_known_classes() -> None:
    with pytest.raises(WorkflowInvalid, match="No node of the workflow is an output"):
        fingerprint({"1": node("EmptyImage", width=8)}, schemas=SCHEMAS)


def test_a_value_nested_too_deeply_is_said() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(WorkflowInvalid, match="nested too deeply"):
        fingerprint({"1": node("A", x=value)})


def test_it_stays_what_it_is() -> None:
    """It is written into caches: a change of the rules needs a new name for them."""
    assert (
        fingerprint(blended(), schemas=SCHEMAS)
        == "727c37d58ab733e12f21d010cde9bdd7f1edde20332b3fe56246301182da602b"
    )

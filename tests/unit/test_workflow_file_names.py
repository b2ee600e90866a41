"""``%date:…%`` and ``%Node.input%`` in prompts that no page has made."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from saved_workflow import saved, workflow

from comfy_remote.workflow.change.file_names import fill_in_prompt, left_over
from comfy_remote.workflow.change.prepare import Changes, prepare
from comfy_remote.workflow.check import check_prompt
from comfy_remote.workflow.load import parse_workflow
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas

NOW = datetime(2026, 3, 4, 15, 6, 7, tzinfo=timezone.utc)


def prompt_of(prefix: str, saver: str = "SaveImage") -> Prompt:
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255},
            "_meta": {"title": "Red"},
        },
        "2": {"class_type": saver, "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def prefix_of(prompt: Prompt) -> object:
    return prompt["2"]["inputs"]["filename_prefix"]


def test_dates_and_values_are_filled_in_where_the_page_would() -> None:
    given = prompt_of("d/%date:yyyy-MM-dd%/%date:hhmmss%_%EmptyImage.width%_%Red.color%")
    assert prefix_of(fill_in_prompt(given, NOW)) == "d/2026-03-04/150607_64_255"
    assert prefix_of(given) != prefix_of(fill_in_prompt(given, NOW)), "the given one is not changed"
    video = prompt_of("%date:yyyy%", "VHS_VideoCombine")
    assert prefix_of(fill_in_prompt(video, NOW)) == "2026"


def test_what_cannot_be_found_stays_and_is_named() -> None:
    given = prompt_of("%KSampler.seed%_%SaveImage.images%_%width%")
    done = fill_in_prompt(given, NOW)
    assert done is given
    assert [found for *_, found in left_over(done)] == ["%KSampler.seed%", "%SaveImage.images%"]


def test_a_saver_that_nobody_knows_keeps_its_placeholders_and_check_names_them() -> None:
    given = prompt_of("%date:yyyy%/x", "Unheard Of Saver")
    done = fill_in_prompt(given, NOW)
    assert prefix_of(done) == "%date:yyyy%/x"
    problems = check_prompt(done, Schemas.bundled()).problems
    [left] = [p for p in problems if p.code == "placeholder_left"]
    assert (left.node_id, left.input, left.severity) == ("2", "filename_prefix", "warning")
    assert "%date:yyyy%" in left.message


def test_texts_of_other_inputs_are_not_taken_for_names() -> None:
    text: Prompt = {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": "50% A.b 20% off"}}}
    assert list(left_over(text)) == []


def test_a_prompt_in_api_format_is_prepared_with_them_filled_in() -> None:
    document = {
        key: dict(node) for key, node in prompt_of("%date:yyyy%_%EmptyImage.width%").items()
    }
    prepared = prepare(parse_workflow(document), Changes())  # type: ignore[arg-type]
    assert prefix_of(prepared.prompt) == f"{datetime.now().astimezone():%Y}_64"
    assert any("filled in" in note for note in prepared.notes)


def test_values_in_names_are_those_that_run() -> None:
    document = workflow(
        saved(1, "EmptyImage", [64, 48, 1, 255], outputs={"IMAGE": [1]}, title="Red"),
        saved(2, "SaveImage", ["%Red.width%"], inputs={"images": ("IMAGE", 1)}),
        links=[[1, 1, 0, 2, 0, "IMAGE"]],
    )
    schemas = Schemas.bundled()
    changes = Changes(settings=["Red.width=32"])
    loaded = parse_workflow(document, "it")
    assert prefix_of(prepare(loaded, changes, schemas).prompt) == "32"
    assert prefix_of(prepare(loaded, Changes(), schemas).prompt) == "64"
    later = prepare(loaded, Changes(), schemas, fill_names=False)
    assert prefix_of(later.prompt) == "%Red.width%"
    api: Any = prompt_of("%EmptyImage.width%_%date:yyyy%")
    changed = prepare(parse_workflow(api), Changes(settings=["1.width=16"])).prompt
    assert prefix_of(changed) == f"16_{datetime.now().astimezone():%Y}"


def test_a_node_is_called_by_its_own_alias() -> None:
    alias = {"Node name for S&R": "Base"}
    document = workflow(
        saved(1, "EmptyImage", [64, 48, 1, 255], properties=alias),
        saved(2, "SaveImage", ["%Base.width%"]),
    )
    changes = Changes(settings=["1.width=32"])
    prepared = prepare(parse_workflow(document, "it"), changes, Schemas.bundled())
    assert prefix_of(prepared.prompt) == "32"


def test_the_value_of_a_primitive_is_that_of_the_input_it_writes_to() -> None:
    document = workflow(
        saved(1, "EmptyImage", [64, 48, 1, 255], widgets={"width": 5}),
        saved(2, "SaveImage", ["%Size.value%_%Nowhere.value%"]),
        {**saved(3, "PrimitiveNode", [80, "fixed"], outputs={"INT": [5]}), "title": "Size"},
        {**saved(4, "PrimitiveNode", [90, "fixed"]), "title": "Nowhere"},
        links=[[5, 3, 0, 1, 0, "INT"]],
    )
    loaded = parse_workflow(document, "it")
    unchanged = prepare(loaded, Changes(), Schemas.bundled())
    assert prefix_of(unchanged.prompt) == "80_%Nowhere.value%"
    changed = prepare(loaded, Changes(settings=["1.width=96"]), Schemas.bundled())
    assert prefix_of(changed.prompt) == "96_%Nowhere.value%"

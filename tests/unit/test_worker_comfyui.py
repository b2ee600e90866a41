"""What the public worker-comfyui returns, and of which node: known from the prompt alone."""

from __future__ import annotations

import pytest

from comfy_remote.targets.runpod.worker_comfyui import nodes_of_files, not_returned
from comfy_remote.workflow.prompt import Prompt


def _prompt(**classes: tuple[str, dict[str, object]]) -> Prompt:
    return {
        key.removeprefix("n"): {"class_type": class_type, "inputs": inputs}  # type: ignore[typeddict-item]
        for key, (class_type, inputs) in classes.items()
    }


def _saver(prefix: object = "x", class_type: str = "SaveImage") -> tuple[str, dict[str, object]]:
    return class_type, {"images": ["1", 0], "filename_prefix": prefix}


SOURCE = ("EmptyImage", {"width": 8})


@pytest.mark.parametrize(
    ("savers", "files", "nodes"),
    [
        ([_saver("a"), _saver("b")], ["b_00001_.png", "a_00007_.png"], ["3", "2"]),
        # The same name, of two folders or of one: nobody can tell.
        ([_saver("colA/x"), _saver("colB/x")], ["x_00001_.png"] * 2, [None, None]),
        ([_saver("x"), _saver("x")], ["x_00001_.png", "x_00002_.png"], [None, None]),
        # With its subfolder, one can.
        ([_saver("colA/x"), _saver("colB/x")], ["colB/x_00001_.png"], ["3"]),
        # One prefix begins like the other.
        ([_saver("x"), _saver("x_00001")], ["x_00001_00001_.png", "x_00001_.png"], ["3", "2"]),
        # Windows compares so, and Windows' separator.
        ([_saver("A\\Pic"), _saver("other")], ["pic_00001_.png"], ["2"]),
        # Tokens that the engine replaces.
        ([_saver("%year%-%month%"), _saver("y")], ["2026-11_00001_.png"], ["2"]),
        ([_saver("%a%x"), _saver("x")], ["x_00001_.png"], [None]),
        # A linked prefix may be anything.
        ([_saver(["1", 0]), _saver("x")], ["x_00001_.png"], [None]),
        # The ending tells.
        ([_saver("x"), _saver("video/x", "SaveVideo")], ["x_00001_.mp4"], ["3"]),
        # Sound is not returned, so a file of that prefix is not its.
        ([_saver("x"), _saver("x", "SaveAudio")], ["x_00001_.png"], ["2"]),
        # Another way of naming files: certain if only one node saves at all.
        ([_saver("x", "PackSaver")], ["20261129.png"], ["2"]),
        ([_saver("x", "PackSaver"), _saver("y")], ["20261129.png"], [None]),
        ([("PackSaver", {"images": ["1", 0]})], ["20261129.png"], ["2"]),
    ],
)
def test_a_file_is_its_node_s_only_if_that_is_certain(
    savers: list[tuple[str, dict[str, object]]], files: list[str], nodes: list[str | None]
) -> None:
    numbered = {f"n{number}": saver for number, saver in enumerate(savers, 2)}
    assert nodes_of_files(_prompt(n1=SOURCE, **numbered), files) == nodes


def test_what_is_not_returned() -> None:
    linked = {"images": ["1", 0]}
    prompt = _prompt(
        n1=SOURCE,
        n2=_saver(),
        n3=("PreviewImage", linked),
        n4=("SaveAudio", {"audio": ["3", 0]}),  # what it takes passes through a preview
        n5=("VHS_VideoCombine", linked),
        n6=("PackShowsText", linked),
        n7=("PackInTheMiddle", linked),
        n8=("SaveVideo", {"video": ["7", 0]}),
    )
    assert [str(node) for node in not_returned(prompt)] == [
        "3 (PreviewImage: previews)",
        "4 (SaveAudio: sound)",
        "5 (VHS_VideoCombine: videos listed as gifs)",
        "6 (PackShowsText)",
    ]

"""Advice: what works, and could cost less, with the numbers that follow from the graph."""

from __future__ import annotations

from typing import Any

from test_workflow_check import PICTURE, TARGET, changed

from comfy_remote.workflow.check import Advice, check_prompt


def advice(prompt: Any) -> list[Advice]:
    return list(check_prompt(prompt, TARGET).advice)


def only(prompt: Any) -> Advice:
    found = advice(prompt)
    assert len(found) == 1, found
    return found[0]


PREVIEW = {"class_type": "PreviewImage", "inputs": {"images": ["7", 0]}}


def test_nothing_to_advise() -> None:
    assert advice(PICTURE) == []


def test_nodes_that_feed_no_output() -> None:
    found = only(changed(n7={"class_type": "ImageInvert", "inputs": {"image": ["5", 0]}}))
    assert (found.code, found.nodes) == ("unused_nodes", ("7",))


def test_a_preview_with_a_decode_of_its_own() -> None:
    decode = {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["1", 2]}}
    found = only(changed(n7=decode, n8=PREVIEW))
    assert (found.code, found.nodes) == ("preview_costs_decode", ("7", "8"))
    assert "1 picture of 1024x1024" in found.saves
    # A preview of what is saved anyway costs no decode.
    shared = {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}}
    assert advice(changed(n8=shared)) == []
    # A preview that is all the workflow makes is what it is for.
    assert advice(changed(n6=shared)) == []


def test_a_model_that_two_nodes_load() -> None:
    def loader(weights: str) -> dict[str, Any]:
        return {"class_type": "UNETLoader",
                "inputs": {"unet_name": "u.safetensors", "weight_dtype": weights}}  # fmt: skip

    def prompt(one: str, other: str) -> Any:
        merge = {"class_type": "ModelMergeSimple",
                 "inputs": {"model1": ["7", 0], "model2": ["8", 0], "ratio": 1}}  # fmt: skip
        return changed(n4={"model": ["9", 0]}, n7=loader(one), n8=loader(other), n9=merge)

    found = only(prompt("default", "fp8_e4m3fn"))
    assert (found.code, found.nodes) == ("model_loaded_twice", ("7", "8"))
    # ComfyUI runs nodes that are alike only once.
    assert advice(prompt("default", "default")) == []


def test_frames_that_are_saved_as_pictures() -> None:
    video = {"class_type": "EmptyHunyuanLatentVideo",
             "inputs": {"width": 640, "height": 480, "length": 49, "batch_size": 1}}  # fmt: skip
    found = only(changed(n2=video))
    assert (found.code, found.nodes) == ("frames_as_pictures", ("6",))
    assert "49 frames of 640x480" in found.message
    # 49 x 640 x 480 pixels, of 1.5 bytes in a PNG and 0.03 in a video.
    assert "452 kB instead of 49 of together 22.6 MB" in found.saves


def test_a_resize_that_could_run_here() -> None:
    def scaled(factor: float) -> Any:
        resize = {
            "class_type": "ImageScaleBy",
            "inputs": {"image": ["5", 0], "upscale_method": "area", "scale_by": factor},
        }
        return changed(n6={"images": ["7", 0]}, n7=resize)  # fmt: skip

    found = only(scaled(2))
    assert (found.code, found.nodes) == ("resize_could_run_here", ("7", "6"))
    assert "About 4.7 MB of the 6.3 MB" in found.saves
    assert advice(scaled(0.5)) == []


def test_a_resize_between_two_models_stays_there() -> None:
    resize = {"class_type": "ImageScaleBy",
              "inputs": {"image": ["5", 0], "upscale_method": "area", "scale_by": 2}}  # fmt: skip
    encode = {"class_type": "VAEEncode", "inputs": {"pixels": ["7", 0], "vae": ["1", 2]}}
    decode = {"class_type": "VAEDecode", "inputs": {"samples": ["8", 0], "vae": ["1", 2]}}
    assert advice(changed(n6={"images": ["9", 0]}, n7=resize, n8=encode, n9=decode)) == []


def test_sizes_come_through_primitives() -> None:
    number = {"class_type": "PrimitiveInt", "inputs": {"value": 512}}
    resize = {"class_type": "ImageScale",
              "inputs": {"image": ["5", 0], "upscale_method": "area", "width": 2048, "height": 0,
                         "crop": "disabled"}}  # fmt: skip
    found = only(changed(n2={"width": ["8", 0]}, n6={"images": ["7", 0]}, n7=resize, n8=number))
    assert "1 picture of 512x1024 instead of 1 picture of 2048x4096" in found.saves

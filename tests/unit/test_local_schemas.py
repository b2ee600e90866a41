"""The node classes of the ComfyUI that our pack is in, as its own ``/object_info`` has them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest

from comfy_remote.workflow.schema import Schemas

MODULE = "comfy_remote.node_pack.nodes.comfyui"


class Resize:
    RETURN_TYPES = ("IMAGE",)
    RELATIVE_PYTHON_MODULE = "custom_nodes.rgthree-comfy"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, object]:  # noqa: N802 - ComfyUI's name
        return {"required": {"image": ("IMAGE",)}}


class Core(Resize):
    RELATIVE_PYTHON_MODULE = "nodes"


def module(name: str, **attributes: object) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(attributes)
    return made


@pytest.fixture
def comfyui(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Our module in a ComfyUI with these classes."""
    of_comfyui = [
        module("execution"),
        module("folder_paths"),
        module(
            "nodes",
            NODE_CLASS_MAPPINGS={"Image Resize (rgthree)": Resize, "Core": Core},
            NODE_DISPLAY_NAME_MAPPINGS={},
        ),
        module("comfy"),
        module("comfy.model_management", throw_exception_if_processing_interrupted=None),
        module("comfy_api"),
        module(
            "comfy_api.latest", ComfyAPI=object, io=SimpleNamespace(ComfyNode=type("V3", (), {}))
        ),
        module("server", PromptServer=object),
    ]
    for one in of_comfyui:
        monkeypatch.setitem(sys.modules, one.__name__, one)
    before = sys.modules.pop(MODULE, None)
    try:
        return importlib.import_module(MODULE)
    finally:
        sys.modules.pop(MODULE, None)
        if before is not None:
            sys.modules[MODULE] = before


def said(schemas: Schemas, name: str) -> str | None:
    schema = schemas.get(name)
    return schema.python_module if schema is not None else None


def test_a_class_says_which_pack_it_is_of(comfyui: ModuleType) -> None:
    """By that, what a target lacks is known to be of a pack that is installed here."""
    schemas = comfyui.local_schemas({"Image Resize (rgthree)", "Core"})
    assert {name: said(schemas, name) for name in ("Image Resize (rgthree)", "Core")} == {
        "Image Resize (rgthree)": "custom_nodes.rgthree-comfy",
        "Core": "nodes",
    }

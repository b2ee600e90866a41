"""The workflow that runs when none is given: text to image, with a checkpoint of the target."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

from ..advice import Hint
from ..errors import WorkflowInvalid
from .load import LoadedWorkflow, parse_workflow
from .prompt import with_inputs
from .schema import Schemas

__all__ = ["blank_text_to_image", "text_to_image"]

_LOADER, _CHECKPOINT = "CheckpointLoaderSimple", "ckpt_name"


def blank_text_to_image() -> LoadedWorkflow:
    """The workflow without a checkpoint, to ask a target about its nodes."""
    text = files(__package__).joinpath("data").joinpath("text_to_image.json").read_text("utf-8")
    return parse_workflow(json.loads(text), "text to image")


def text_to_image(schemas: Schemas) -> LoadedWorkflow:
    """The workflow with the first checkpoint that the target lists.

    Its size, steps and guidance suit a model like SDXL; others want others.

    Raises:
        WorkflowInvalid: The target has no checkpoint, or does not say.
    """
    schema = schemas.get(_LOADER)
    choices = [
        choice
        for one in (schema.inputs if schema is not None else ())
        if one.name == _CHECKPOINT
        for choice in one.choices
        if isinstance(choice, str)
    ]
    if schemas.is_snapshot or not choices:
        why = (
            "does not tell which checkpoints it has"
            if schemas.is_snapshot
            else "has no checkpoint for the built-in text-to-image workflow"
        )
        raise WorkflowInvalid(
            f"No workflow was given, and the target {why}.",
            advice=Hint.GIVE_WORKFLOW(),
        )
    blank = blank_text_to_image()
    prompt = with_inputs(blank.prompt or {}, {("1", _CHECKPOINT): choices[0]})
    return replace(blank, prompt=prompt, source=f"Text to image, built in, with {choices[0]},")

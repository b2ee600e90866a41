"""From a loaded workflow to the prompt that is sent: converts, changes, and notes what was done."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict

from ...data_class import dataclass
from ...errors import WorkflowInvalid
from ...types import JsonValue
from ..graph import linked_node
from ..json_document import in_ui_format
from ..load import LoadedWorkflow
from ..prompt import Place, Prompt
from ..schema import Schemas
from ..spelling import as_listed
from .file_names import below_output, fill_in_prompt, find_name_prefixes, name_below
from .numbers import SizeInput, find_seeds, find_sizes, has_seeds
from .settings import apply_settings, put
from .texts import Side, find_texts, has_texts

if TYPE_CHECKING:
    from ..convert import Doubt

__all__ = ["ChangeWords", "Changes", "PreparedWorkflow", "prepare"]


class ChangeWords(TypedDict, total=False):
    """`Changes` as keywords of a call: ``run("w.json", seed=5, set={"KSampler.steps": 40})``.

    Attributes:
        set: `Changes.settings`.
        vars: `Changes.given`.
    """

    prompt: str
    prompt_nodes: Sequence[str]
    negative: str
    seed: int
    width: int
    height: int
    batch: int
    set: Mapping[str, JsonValue] | Sequence[str]
    output_folder: str
    vars: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Changes:
    """What to change in a workflow; nothing by default.

    Attributes:
        prompt, negative: The positive and the negative text.
        prompt_nodes: Ids, titles or classes of the nodes that have the positive text, if the
            samplers' links do not lead there.
        seed: For every seed.
        width, height, batch: Of the empty latents or images that samplers start from.
        settings: ``NODE.input=value``, or ``{"NODE.input": value}``; applied last.
        output_folder: Where the target saves, below its own output folder; of a whole path, what
            comes after ``output``.
        image_id: A word for this run, for ``${IMAGE_ID}`` alone.
        given: Further variables by name, for ``${NAME}`` in the file.
        where_possible: Whether a text or a seed that has nowhere to go is only noted, among
            `PreparedWorkflow.ignored`.

    Raises:
        WorkflowInvalid: ``output_folder`` leads out of the target's output folder.
    """

    prompt: str | None = None
    prompt_nodes: Sequence[str] = ()
    negative: str | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    batch: int | None = None
    settings: Sequence[str] | Mapping[str, JsonValue] = ()
    output_folder: str | None = None
    image_id: str | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    where_possible: bool = False

    @classmethod
    def of(cls, words: ChangeWords, changes: Changes | None = None) -> Changes:
        """``changes`` with those that keywords give; raises `TypeError` for an unknown one."""
        if not isinstance(words, Mapping):
            raise TypeError(f"changes are a dictionary such as {{'seed': 5}}, not {words!r}")
        names = {"set": "settings", "vars": "given"}
        for word in words:
            if word not in ChangeWords.__annotations__:
                from difflib import get_close_matches  # here: only a mistake needs it

                near = get_close_matches(word, ChangeWords.__annotations__, n=1)
                hint = f" Did you mean {near[0]}=?" if near else ""
                raise TypeError(
                    f"There is no keyword {word}=.{hint} Any input of a node is set by "
                    "set={'NODE.input': value}."
                )
        given: dict[str, Any] = {names.get(word, word): value for word, value in words.items()}
        return replace(changes or cls(), **given)

    def __post_init__(self) -> None:
        for name in ("settings", "prompt_nodes"):  # one, not a list of its letters
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, (value,))
        if self.output_folder is not None:
            object.__setattr__(self, "output_folder", below_output(self.output_folder))

    def __bool__(self) -> bool:
        change_nothing = Changes(
            prompt_nodes=self.prompt_nodes,
            settings=self.settings,
            image_id=self.image_id,
            given=self.given,
            where_possible=self.where_possible,
        )
        return bool(self.settings) or self != change_nothing

    def variables(self) -> dict[str, str]:
        """The values for ``${NAME}`` in a file."""
        changes = {
            "PROMPT": self.prompt,
            "NEGATIVE": self.negative,
            "SEED": self.seed,
            "WIDTH": self.width,
            "HEIGHT": self.height,
            "BATCH": self.batch,
            "OUTPUT_FOLDER": self.output_folder,
            "IMAGE_ID": self.image_id,
        }
        return {
            **self.given,
            **{name: str(value) for name, value in changes.items() if value is not None},
        }


@dataclass(frozen=True, slots=True)
class PreparedWorkflow:
    """What to submit.

    Attributes:
        prompt: API format, changed.
        workflow: UI format, as it was loaded, to embed in the outputs.
        notes: What was found and done, a sentence each; includes the doubts.
        source: See `LoadedWorkflow.source`.
        doubts: Saved values that may belong to other inputs.
        ignored: Changes that had nowhere to go, a sentence each; see `Changes.where_possible`.
    """

    prompt: Prompt
    workflow: dict[str, JsonValue] | None
    notes: tuple[str, ...]
    source: str
    doubts: tuple[Doubt, ...] = ()
    ignored: tuple[str, ...] = ()


def prepare(
    loaded: LoadedWorkflow,
    changes: Changes,
    schemas: Schemas | None = None,
    *,
    keep_unknown: bool | None = None,
    fill_names: bool = True,
) -> PreparedWorkflow:
    """The prompt that will run.

    A workflow is converted only if there is no prompt. A text or number that was filled in for
    ``${NAME}`` is not set again (but for the seed, which is set wherever there is one).

    Args:
        schemas: The target's, if known. Required for UI format; values are checked against them.
        keep_unknown: As for `convert`.
        fill_names: Whether ``%date:…%`` and ``%Node.input%`` are filled in; not for a prompt that
            changes again before it runs.

    Raises:
        WorkflowInvalid: The workflow cannot be converted, or a change does not fit it.
    """
    notes = [loaded.describe()]
    doubts: tuple[Doubt, ...] = ()
    names: Mapping[str, str] | None = None
    primitives: Mapping[str, Place] = {}
    if loaded.prompt is not None:
        prompt = loaded.prompt
    elif schemas is None or loaded.workflow is None:
        raise in_ui_format(loaded.source)
    else:
        from ..convert import convert  # here: a prompt needs none of it

        # File names may contain values that are changed below.
        at_once = fill_names and not changes
        converted = convert(loaded.workflow, schemas, keep_unknown=keep_unknown, fill_names=at_once)
        prompt, doubts = converted.prompt, converted.doubts
        names, primitives = converted.names, converted.primitives
        if not prompt:
            raise WorkflowInvalid(
                f"{loaded.source} is empty: it has no node that runs.",
                advice="Open it in ComfyUI, see which nodes are muted or missing, and save or "
                "export it again.",
            )
        notes.append(f"Converted to API format with the node schemas of {schemas.source}.")
        notes += [doubt.sentence for doubt in doubts]
    texts: tuple[tuple[Side, str, str | None], ...] = (
        ("positive", "PROMPT", changes.prompt),
        ("negative", "NEGATIVE", changes.negative),
    )
    ignored = []
    for side, variable, text in texts:
        if text is None or (variable in loaded.variables and not changes.prompt_nodes):
            continue
        if changes.where_possible and not changes.prompt_nodes and not has_texts(prompt, side):
            ignored.append(f"The {side} text is not used: no node of the workflow takes one.")
            continue
        places = find_texts(prompt, side, changes.prompt_nodes if side == "positive" else ())
        notes.append(f"The {side} text is set in {_named(prompt, places)}.")
        prompt = put(prompt, places, text, schemas)
    sizes: tuple[tuple[SizeInput, str, int | None], ...] = (
        ("width", "WIDTH", changes.width),
        ("height", "HEIGHT", changes.height),
        ("batch_size", "BATCH", changes.batch),
    )
    for name, variable, number in sizes:
        if number is None or variable in loaded.variables:
            continue
        places = find_sizes(prompt, name)
        notes.append(f"{name} {number} is set in {_named(prompt, places)}.")
        prompt = put(prompt, places, number, schemas)
    if changes.seed is None or ("SEED" in loaded.variables and not has_seeds(prompt)):
        pass
    elif changes.where_possible and not has_seeds(prompt):
        ignored.append("The seed is not used: no node of the workflow has one.")
    else:
        places = find_seeds(prompt)
        notes.append(f"Seed {changes.seed} is set in {_named(prompt, places)}.")
        prompt = put(prompt, places, changes.seed, schemas)
    if changes.output_folder is not None and "OUTPUT_FOLDER" not in loaded.variables:
        places = find_name_prefixes(prompt)
        notes.append(
            f"Saved on the target below {changes.output_folder}: {_named(prompt, places)}."
        )
        prompt = name_below(prompt, places, changes.output_folder)
    before, prompt = prompt, apply_settings(prompt, changes.settings, schemas)
    notes += _settings_made(before, prompt)
    if fill_names:
        now = datetime.now().astimezone()
        before, prompt = prompt, fill_in_prompt(prompt, now, names, primitives)
        if prompt is not before:
            notes.append("Dates and values are filled in where names of files ask for them.")
    if schemas is not None:
        prompt, respelled = as_listed(prompt, schemas)
        notes += map(str, respelled)
    return PreparedWorkflow(
        prompt, loaded.workflow, tuple(notes), loaded.source, doubts, tuple(ignored)
    )


def _settings_made(before: Prompt, after: Prompt) -> Iterator[str]:
    for node_id, node in after.items():
        if node is before[node_id]:  # most are
            continue
        for name, value in node["inputs"].items():
            if name not in before[node_id]["inputs"] or before[node_id]["inputs"][name] != value:
                shown = reprlib.repr(value)
                yield f"{name} of {node['class_type']} ({node_id}) is set to {shown}."


def _named(prompt: Prompt, places: Sequence[Place]) -> str:
    """``CLIPTextEncode (6), CLIPTextEncode (9) instead of its link to node 14``."""
    named = []
    for node_id, key in places:
        link = linked_node(prompt, prompt[node_id]["inputs"].get(key))
        instead = f" instead of its link to node {link[0]}" if link else ""
        named.append(f"{prompt[node_id]['class_type']} ({node_id}){instead}")
    return ", ".join(dict.fromkeys(named))

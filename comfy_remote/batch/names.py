"""What the name of something that varies means: which inputs it sets, and what values it takes.

A name is ``NODE.input``, as in a setting; or ``prompt``, ``negative``, ``seed``, ``width``,
``height``, ``batch``, which mean what `Changes` means by them; or ``input`` for the one file that
the workflow loads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from ..errors import WorkflowInvalid
from ..types import JsonValue
from ..workflow.change.numbers import (
    MAX_RANDOM,
    MAX_SEED,
    find_seeds,
    find_sizes,
    has_seeds,
    parse_seed,
)
from ..workflow.change.prepare import Changes
from ..workflow.change.settings import find_input
from ..workflow.change.texts import find_texts
from ..workflow.change.values import (
    did_you_mean,
    input_schema_of,
    quoted,
    value_from_text,
)
from ..workflow.files import every_file_use
from ..workflow.prompt import Place, Prompt, with_inputs
from ..workflow.schema import Schemas

__all__ = ["FILE", "SEED", "WORDS", "Kind", "Names", "VariedInput", "spot"]

Kind: TypeAlias = Literal["text", "number", "file", "other"]
"""How typed values are read: commas in a text and ranges of numbers mean something."""

SEED: Final = "seed"
FILE: Final = "input"
WORDS: Final = ("prompt", "negative", SEED, "width", "height", "batch")
"""The names that `Changes` has as well."""


@dataclass(frozen=True, slots=True)
class VariedInput:
    """One name, and what it sets.

    Attributes:
        name: As it was typed.
        places: The inputs that it sets, in the prompt that was frozen.
        file: Whether its values name files.
    """

    name: str
    places: tuple[Place, ...]
    file: bool = False

    @property
    def word(self) -> str | None:
        """The field of `Changes` that takes its values; ``None`` for a setting."""
        return self.name if self.name in WORDS else None

    @property
    def setting(self) -> str:
        """``NODE.input`` with the node's id."""
        return ".".join(self.places[0])


def spot(where: str, error: WorkflowInvalid) -> WorkflowInvalid:
    """The same error, its message preceded by where the value was typed."""
    return type(error)(f"{where}: {error.message}", advice=error.advice, details=error.details)


class Names:
    """The names that a prompt has.

    Args:
        prompt: API format.
        schemas: The target's, if known: they give values their types.
        changes: What does not vary; of it, ``prompt_nodes`` says where the text goes.
        filled: What the workflow's file takes by variables (``${PROMPT}``), by its name here.
    """

    def __init__(
        self,
        prompt: Prompt,
        schemas: Schemas | None,
        changes: Changes,
        filled: Mapping[str, Sequence[Place]] = MappingProxyType({}),
    ) -> None:
        self._prompt = prompt
        self._schemas = schemas
        self._changes = changes
        self._filled = filled
        self._files = {(use.node_id, use.input) for use in every_file_use(prompt, schemas)}

    def find(self, name: str, where: str) -> VariedInput:
        """What a name means.

        Args:
            where: Where it was typed, for messages.

        Raises:
            WorkflowInvalid: The workflow has no such input.
        """
        try:
            places = self._places(name)
        except WorkflowInvalid as error:
            raise spot(where, error) from None
        file = name not in WORDS and all(place in self._files for place in places)
        return VariedInput(name, tuple(places), file)

    def kind(self, varied: VariedInput) -> Kind:
        """How its typed values are read."""
        if varied.file:
            return "file"
        if varied.word is not None:
            return "text" if varied.word in ("prompt", "negative") else "number"
        node_id, key = varied.places[0]
        schema = input_schema_of(self._prompt[node_id], key, self._schemas)
        old = self._prompt[node_id]["inputs"].get(key)
        if schema is not None:
            types = set(schema.type.split(","))
            if types <= {"INT", "FLOAT"}:
                return "number"
            if types == {"STRING"}:
                return "text"
            return "other"
        if isinstance(old, str):
            return "text"
        return "number" if isinstance(old, int | float) and not isinstance(old, bool) else "other"

    def is_seed(self, varied: VariedInput) -> bool:
        """Whether random seeds may be drawn for it."""
        # At a primitive that feeds a seed, or at the seed itself, which may be linked.
        seeds = set(find_seeds(self._prompt)) if has_seeds(self._prompt) else set()
        keys = [key.rpartition(".")[2].casefold() for _, key in varied.places]
        return seeds.issuperset(varied.places) or all(
            key == SEED or key.endswith("_seed") for key in keys
        )

    def seeds_left(self, varied: list[VariedInput]) -> list[Place]:
        """The seeds that none of these sets."""
        taken = {place: 0 for one in varied for place in one.places}
        # A varied seed is no link any more, so what it was linked to may feed no seed.
        changed = with_inputs(self._prompt, taken)
        seeds = find_seeds(changed) if has_seeds(changed) else []
        return [place for place in seeds if place not in taken]

    def largest_random(self, places: tuple[Place, ...]) -> int:
        """The largest seed to draw for these inputs: see `MAX_RANDOM`."""
        found = MAX_RANDOM
        for node_id, key in places:
            schema = input_schema_of(self._prompt[node_id], key, self._schemas)
            most = schema.options.get("max") if schema is not None else None
            if isinstance(most, int | float) and 0 <= most < found:
                found = int(most)
        return found

    def typed(self, varied: VariedInput, text: str) -> JsonValue:
        """The value for a text, with the type that the input takes. Range and choices may be wrong.

        Raises:
            WorkflowInvalid: It does not fit.
        """
        if not text.isascii():
            _refuse_what_cannot_travel(text)
        match varied.word:
            case "prompt" | "negative":
                return text
            case "seed":
                return parse_seed(text)
            case "width" | "height" | "batch" as word:
                if not (text.isascii() and text.isdigit() and len(text) < 10):
                    raise _no(word, text, "a whole number of at least 1")
                return self.accepted(varied, int(text))
            case _:
                place = varied.places[0]
                value = value_from_text(self._prompt, *place, text, self._schemas, checked=False)
                self._refuse_fraction(varied, value)
                return value

    def accepted(self, varied: VariedInput, value: JsonValue) -> JsonValue:
        """A value that has a type already, from a program or a JSON file.

        A text for a number is read as one.

        Raises:
            WorkflowInvalid: It does not fit.
        """
        _refuse_what_cannot_travel(value)
        if isinstance(value, str):
            return value if self.kind(varied) in ("text", "file") else self.typed(varied, value)
        whole = isinstance(value, int) and not isinstance(value, bool)
        match varied.word:
            case "prompt" | "negative" as word:
                raise _no(word, value, "a text")
            case "seed" if not (whole and isinstance(value, int) and 0 <= value <= MAX_SEED):
                raise _no("seed", value, f"a whole number from 0 to {MAX_SEED}")
            case "width" | "height" | "batch" as word if not (
                whole and isinstance(value, int) and value >= 1
            ):
                raise _no(word, value, "a whole number of at least 1")
        if varied.file:
            raise _no(varied.name, value, "the path of a file")
        self._refuse_fraction(varied, value)
        return value

    def _refuse_fraction(self, varied: VariedInput, value: JsonValue) -> None:
        """An engine would cut it off, so that different values gave the same picture."""
        if not isinstance(value, float) or value.is_integer():
            return
        node_id, key = varied.places[0]
        schema = input_schema_of(self._prompt[node_id], key, self._schemas)
        if schema is not None and schema.type == "INT":
            raise _no(varied.name, value, "a whole number")

    def _places(self, name: str) -> list[Place]:
        if name in self._filled:
            return list(self._filled[name])
        match name:
            case "prompt":
                return find_texts(self._prompt, "positive", self._changes.prompt_nodes)
            case "negative":
                return find_texts(self._prompt, "negative")
            case "seed":
                return find_seeds(self._prompt)
            case "width" | "height":
                return find_sizes(self._prompt, name)
            case "batch":
                return find_sizes(self._prompt, "batch_size")
            case "input":
                return [self._only_file()]
            case _ if "." not in name:
                known = (*WORDS, FILE)
                raise WorkflowInvalid(
                    f"{name!r} is not the name of an input.{did_you_mean(name, known)}",
                    advice=f"Names are NODE.input (KSampler.steps), {', '.join(known)}.",
                )
            case _:
                return [find_input(self._prompt, name, self._schemas)]

    def _only_file(self) -> Place:
        found = sorted(self._files)
        if len(found) == 1:
            return found[0]
        if not found:
            raise WorkflowInvalid("No node of the workflow loads a file.")
        named = ", ".join(f"{node_id}.{key}" for node_id, key in found)
        raise WorkflowInvalid(
            f"The workflow loads {len(found)} files.", advice=f"Name the one you mean: {named}."
        )


def _refuse_what_cannot_travel(value: JsonValue) -> None:
    """Half of an emoji, which JSON may escape, and numbers without end: no prompt has them."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise WorkflowInvalid(
            "half a character is in it.", advice="An emoji may have been cut in two: type it again."
        ) from None
    except ValueError:
        raise WorkflowInvalid(f"{quoted(value)} is no number that a prompt can have.") from None


def _no(name: str, value: JsonValue, wanted: str) -> WorkflowInvalid:
    return WorkflowInvalid(f"{quoted(value)} does not fit {name}, which takes {wanted}.")

"""Lists of inputs that grow as they are linked, and what their members are called.

Source of facts: ComfyUI's frontend 1.49.6 (dynamic widgets).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...types import mapping
from ..schema import InputSchema, input_schema

__all__ = ["Autogrow"]

_TRAILING_NUMBER = re.compile(r"[0-9]{1,6}$")


@dataclass(frozen=True, slots=True)
class Autogrow:
    """One such list of a node.

    Attributes:
        inputs: Of each member.
        least, most: Numbers of members.
        prefix: Of the members' names.
        names: The members' names, if they are fixed.
    """

    name: str
    inputs: list[InputSchema]
    least: int
    most: int
    prefix: str
    names: list[str] | None

    @classmethod
    def of(cls, spec: InputSchema) -> Autogrow:
        """As its schema has it."""
        template = mapping(spec.options.get("template"))
        given = template.get("names")
        names = [str(name) for name in given] if isinstance(given, list) else None
        least, most = template.get("min"), template.get("max")
        prefix = template.get("prefix")
        return cls(
            spec.name,
            [
                input_schema(name, inner, optional=group == "optional")
                for group in ("required", "optional")
                for name, inner in mapping(mapping(template.get("input")).get(group)).items()
            ],
            least if isinstance(least, int) else 1,
            len(names) if names is not None else most if isinstance(most, int) else 100,
            prefix if isinstance(prefix, str) else "",
            names,
        )

    def member(self, ordinal: int, key: str) -> str:
        """The name of an input of a member, counted from 0."""
        if self.names is not None:
            known = 0 <= ordinal < len(self.names)
            return f"{self.name}.{self.names[ordinal]}" if known else f"{self.name}."
        return f"{self.name}.{self.prefix if len(self.inputs) == 1 else key}{ordinal}"

    def ordinal(self, full_name: str) -> int | None:
        """Which member an input of the list belongs to."""
        member = full_name[len(self.name) + 1 :]
        if self.names is not None:
            return self.names.index(member) if member in self.names else None
        digits = _TRAILING_NUMBER.search(member)
        return int(digits.group()) if digits else None

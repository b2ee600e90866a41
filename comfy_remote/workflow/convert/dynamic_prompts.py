"""Choices and comments in texts, which the editor resolves when a workflow is queued.

Source of facts: ComfyUI's frontend 1.49.6 (dynamic prompts).
"""

from __future__ import annotations

import random
import re

__all__ = ["resolve_choices"]

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n\r\u2028\u2029]*", re.DOTALL)
_ESCAPED = re.compile(r"\\([{}|])")


def resolve_choices(text: str, rng: random.Random) -> str:
    """A prompt without comments, and with one of the choices of each ``{a|b|c}``.

    Braces inside braces are choices too; ``\\{``, ``\\|`` and ``\\}`` are the characters.
    """
    text = _COMMENT.sub("", text)
    if "{" not in text and "\\" not in text:
        return text
    result: list[str] = []
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == "\\":
            result.append("\\" + text[position : position + 1])
            position += 1
        elif char == "{":
            choices, position = _choices(text, position)
            result.append(resolve_choices(rng.choice(choices), rng))
        else:
            result.append(char)
    return _ESCAPED.sub(r"\1", "".join(result))


def _choices(text: str, position: int) -> tuple[list[str], int]:
    """The choices of a block that begins at ``position``, and where it ends."""
    choices = [""]
    depth = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == "\\":
            char += text[position : position + 1]
            position += 1
        elif char == "{":
            depth += 1
        elif char == "}":
            if depth == 0:
                break
            depth -= 1
        elif char == "|" and depth == 0:
            choices.append("")
            continue
        choices[-1] += char
    return choices, position

"""Texts that the editor changes when a workflow is queued.

Source of facts: ComfyUI's frontend 1.49.6 (dynamic prompts, text replacements).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import datetime

__all__ = ["replace_in_text", "resolve_choices"]

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n\r\u2028\u2029]*", re.DOTALL)
_ESCAPED = re.compile(r"\\([{}|])")
_PLACEHOLDER = re.compile(r"%([^%]+)%")
_DATE_PART = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyyy|yyy|yy")
_UNSAFE = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')


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


def replace_in_text(text: str, lookup: Callable[[str, str], str | None], now: datetime) -> str:
    """A file name with its placeholders filled in.

    ``%Node.widget%`` is what ``lookup(node, widget)`` gives, made safe for file names, and
    ``%date:yyyy-MM-dd%`` the date. What cannot be found stays as it is.
    """

    def replace(match: re.Match[str]) -> str:
        parts = match.group(1).split(".")
        if len(parts) != 2:
            if parts[0].startswith("date:"):
                return _DATE_PART.sub(lambda part: _date_part(part.group(), now), parts[0][5:])
            return match.group()
        found = lookup(parts[0], parts[1])
        return match.group() if found is None else _UNSAFE.sub("_", found)

    return _PLACEHOLDER.sub(replace, text)


def _date_part(part: str, now: datetime) -> str:
    match part[0]:
        case "y":
            year = str(now.year)
            return year[2:] if part == "yy" else year if part == "yyyy" else part
        case "d":
            number = now.day
        case "M":
            number = now.month
        case "h":
            number = now.hour
        case "m":
            number = now.minute
        case _:
            number = now.second
    return str(number).zfill(len(part))

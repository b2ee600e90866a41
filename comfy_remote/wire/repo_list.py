"""``repo_list``: the models a job needs, one link a line.

```
# what this workflow loads
ckpt        https://huggingface.co/org/repo/blob/main/model.safetensors
lora        https://civitai.com/models/58390?modelVersionId=62833
vae         hf:org/repo/vae/ae.safetensors@main   name=flux-ae.safetensors
upscale     r2:4x-UltraSharp.pth                  sha256=64 hex digits
https://civitai.com/models/4384
```
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import WorkflowInvalid

__all__ = ["ModelLine", "is_link", "parse_repo_list"]

_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_OPTION = re.compile(r'([A-Za-z0-9_]+)=(?:"([^"]*)"|(\S*))(?:\s+|$)')
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEMES = ("https://", "http://", "hf:", "r2:")
_COMMENT = re.compile(r"(^|\s)#.*$")
_LONGEST_LINE = 4096
_MOST_LINES = 1000


@dataclass(frozen=True, slots=True)
class ModelLine:
    """One line: a model, and where to get it.

    Attributes:
        number: Of the line, from 1; 0 for one that is in no list.
        kind: As it is written: ``ckpt``, ``lora``, or the name of a models folder; ``""`` if the
            line does not say it.
        url: An http(s) address, ``hf:ORG/REPO/PATH[@REVISION]`` or ``r2:PATH``. Its query may
            hold a token: use `shown` for people.
        name: Of the file to make, ``/`` between parts; ``None`` for its own.
        sha256: 64 lower-case hex digits.
    """

    number: int
    kind: str
    url: str
    name: str | None = None
    sha256: str | None = None

    @property
    def shown(self) -> str:
        """The line for people: without the address's query, which may hold a token."""
        url = _without_secrets(self.url)
        if self.number == 0:
            return f"{self.kind}/{self.name} ({url})"
        return f"line {self.number} ({f'{self.kind} {url}'.strip()})"


def parse_repo_list(text: str | Sequence[str]) -> list[ModelLine]:
    """The models that a ``repo_list`` names, each once.

    Args:
        text: One string, or a list of them. Empty lines, and what follows a ``#`` at the
            beginning of a word, are comments.

    Raises:
        WorkflowInvalid: Names every line that cannot be read, and why.
            ``details["lines"]`` is ``{line number: reason}``.
    """
    lines = text.splitlines() if isinstance(text, str) else _split(text)
    problems: dict[int, str] = {}
    found: dict[tuple[str, str, str | None, str | None], ModelLine] = {}
    for number, line in enumerate(lines, 1):
        content = _COMMENT.sub("", line).strip()
        if not content:
            continue
        try:
            model = _parse_line(number, content)
        except ValueError as error:
            problems[number] = str(error)
        else:
            found.setdefault((model.kind, model.url, model.name, model.sha256), model)
    if len(found) > _MOST_LINES:
        problems[len(lines)] = f"there are more than {_MOST_LINES} models in the list"
    if problems:
        reasons = "; ".join(f"line {number}: {why}" for number, why in problems.items())
        raise WorkflowInvalid(
            f"The repo_list cannot be read: {reasons}.",
            advice="Write one model a line: [KIND] URL [name=FILE] [sha256=HEX], for example "
            "`lora https://civitai.com/models/58390`. Lines with # are comments.",
            details={"lines": {str(number): why for number, why in problems.items()}},
        )
    return list(found.values())


def is_link(text: str) -> bool:
    """Whether a text begins as the link of a line does."""
    return text.startswith(_SCHEMES)


def _split(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in (text.splitlines() or [""])]


def _parse_line(number: int, line: str) -> ModelLine:
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"it has more than {_LONGEST_LINE} characters")
    kind, _, rest = line.replace("\t", " ").partition(" ")
    if is_link(kind):
        kind, rest = "", line
    elif not _KIND.fullmatch(kind):
        raise ValueError("it begins neither with a link nor with a kind of model, such as lora")
    url, _, options = rest.strip().replace("\t", " ").partition(" ")
    if not url:
        raise ValueError(f"there is no link after {kind!r}")
    if not is_link(url):
        raise ValueError(
            f"what follows {kind!r} is not a link (https://…, hf:ORG/REPO/FILE, r2:FILE)"
        )
    name = sha256 = None
    for option, value in _options(options.strip()):
        if option == "name" and value:
            name = value
        elif option == "sha256" and _SHA256.fullmatch(value.lower()):
            sha256 = value.lower()
        elif option in ("name", "sha256"):
            wanted = "a file's name" if option == "name" else "64 hex digits"
            raise ValueError(f"{option}= is not followed by {wanted}")
        else:
            raise ValueError(f"{option}= is not known (name= and sha256= are)")
    return ModelLine(number, kind, url, name, sha256)


def _options(text: str) -> Iterable[tuple[str, str]]:
    position = 0
    while position < len(text):
        match = _OPTION.match(text, position)
        if match is None:
            raise ValueError(f"{text[position:].split()[0]!r} is not name=FILE or sha256=HEX")
        yield match[1], match[2] if match[2] is not None else match[3]
        position = match.end()


def _without_secrets(url: str) -> str:
    bare = re.split(r"[?#]", url)[0]
    scheme, separator, rest = bare.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else bare

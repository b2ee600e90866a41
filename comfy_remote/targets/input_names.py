"""Names of input files: by content on the way into an engine, the user's own on the way back.

Every target that takes files calls `by_content` on its requests, so that a name never stands for
two contents in an engine, and `UsersNames` on what comes back, so that only the engine sees the
names by content.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import cast

from ..errors import ComfyRemoteError
from ..events import (
    Event,
    Finished,
    Log,
    NodeText,
    OutputReady,
    Progress,
    Shown,
    ShownValues,
)
from ..media.content_names import content_name, with_plain_names
from ..media.remote_values import VALUES_FOLDER
from ..outputs import RemoteOutput
from ..types import JsonValue
from ..workflow.files import ANNOTATION, rename_files
from ..workflow.prompt import Prompt
from .base import InputFile, RunRequest

__all__ = ["UsersNames", "by_content"]

_LONGEST_NAME = 1024
_OWN_FOLDER = "3d/"  # whose files alone the nodes for 3D models list


def by_content(request: RunRequest, *, in_one_folder: bool = False) -> RunRequest:
    """The request with its files named by content, in the prompt, too.

    A file that no input names keeps its name: something else may look for it.

    Args:
        in_one_folder: Whether names lose their folders (``pasted/``, ``clipspace/``), for workers
            that upload a file under its whole name: ComfyUI makes no folder for that. The one that
            it has made itself, for 3D models, stays.
    """
    prompt = request.prompt
    files: list[InputFile] = []
    for file in request.files:
        name = content_name(file.name, file.sha256)
        if in_one_folder and not name.startswith((f"{VALUES_FOLDER}/", _OWN_FOLDER)):
            name = name.rpartition("/")[2]
        renamed = rename_files(prompt, {file.name: name}, file.places)
        named = file if renamed is prompt else replace(file, name=name)
        if all(one.name != named.name for one in files):
            files.append(named)
        prompt = renamed
    return replace(request, prompt=prompt, files=files)


class UsersNames:
    """Turns names by content back into those that a prompt has.

    Args:
        prompt: As it was before `by_content`.
    """

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt

    @cached_property
    def _names(self) -> list[str]:
        return list(
            dict.fromkeys(
                name
                for node in self._prompt.values()
                for value in node["inputs"].values()
                for name in _names_in(value)
            )
        )

    def text(self, text: str) -> str:
        """A text for people."""
        return with_plain_names(text, self._names)

    def event(self, event: Event) -> Event:
        """The same event with the users' names in its texts."""
        match event:
            case Log(message):
                return replace(event, message=self.text(message))
            case Progress(message=message) if message:
                return replace(event, message=self.text(message))
            case NodeText(text=text):
                return replace(event, text=self.text(text))
            case Shown(values=values):
                return replace(event, values=self._shown(values))
            case OutputReady(output):
                return OutputReady(self._output(output))
            case Finished():
                if event.error is not None:
                    self.reword(event.error)
                return replace(
                    event,
                    outputs=tuple(map(self._output, event.outputs)),
                    shown={node: self._shown(values) for node, values in event.shown.items()},
                    problems=tuple(
                        replace(problem, reason=self.text(problem.reason))
                        for problem in event.problems
                    ),
                )
            case _:
                return event

    def reword(self, error: ComfyRemoteError) -> None:
        """Put the users' names into an error's texts, in place."""
        error.message, error.advice = self.text(error.message), self.text(error.advice)
        details = cast("dict[str, JsonValue]", self._json(error.details))
        error.details.clear()
        error.details.update(details)

    @contextmanager
    def in_errors(self) -> Iterator[None]:
        """Put the users' names into errors that are raised in this context."""
        try:
            yield
        except ComfyRemoteError as error:
            self.reword(error)
            raise

    def _shown(self, values: ShownValues) -> ShownValues:
        return {key: self._json(value) for key, value in values.items()}

    def _output(self, output: RemoteOutput) -> RemoteOutput:
        if output.text is not None:
            return replace(output, text=self.text(output.text))
        if output.folder == "input":  # a node that shows what it loads
            return replace(output, filename=self.text(output.filename))
        return output

    def _json(self, value: JsonValue) -> JsonValue:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._json(one) for one in value]
        if isinstance(value, dict):
            if "filename" in value and value.get("type") in ("output", "temp"):
                return value  # a file that was made there, and is read by that name
            return {key: self._json(one) for key, one in value.items()}
        return value


def _names_in(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        if value and len(value) <= _LONGEST_NAME and "\n" not in value:
            annotated = ANNOTATION.match(value)
            yield (annotated["name"] if annotated else value).replace("\\", "/")
    elif isinstance(value, list | dict):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _names_in(one)

"""What a client and a ComfyUI with our node pack say to each other, for what is brought there.

```
GET  remote/receiving                        Hello: what it takes
POST remote/receiving/jobs/ID                begin a job (an `action` as a worker's); JobState
POST remote/receiving/jobs/ID/wait           what has changed since; JobState
PUT  remote/receiving/jobs/ID/parts/SHA256   the part of a model that the job waits for; JobState
POST remote/receiving/jobs/ID/cancel         JobState
```

All but the first are signed (`net.signed`). Who began a job and is silent has gone: it is
cancelled, and what has come stays for the next one.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, JsonValue

from .installed import InstalledPack, ModelFile

__all__ = [
    "INSTALLED",
    "LARGEST_PART",
    "RECEIVING",
    "Hello",
    "InstalledAnswer",
    "JobState",
    "Since",
]

RECEIVING = "remote/receiving"
"""The path of the routes."""
LARGEST_PART = 64 * 1024 * 1024
"""Bytes of a model that one request may have."""
INSTALLED = "installed"
"""The ``action`` of a job that answers with an `InstalledAnswer`."""


class Hello(BaseModel):
    """What a ComfyUI takes. Anybody may ask: it says nothing that ComfyUI does not.

    Attributes:
        version: Of the node pack.
        takes_models: ``fetch``, ``link``, ``receive``, as a worker says it; empty where its owner
            has not allowed it.
        takes_nodes: ``registry``, ``git``, likewise.
        no_nodes: Why it takes no node packs although its owner allows it, for people.
        token: Whether its owner has set the token, without which nothing is taken.
        challenge: To be signed.
    """

    version: str = ""
    takes_models: list[str] = []
    takes_nodes: list[str] = []
    no_nodes: str = Field(default="", max_length=500)
    token: bool = False
    challenge: str = Field(default="", max_length=64)


class Since(BaseModel):
    """The body of ``wait``: the number of the state that the client has seen."""

    number: int = -1


class JobState(BaseModel):
    """How a job is.

    Attributes:
        number: Grows with each change.
        said: The last line for people.
        wants: SHA-256 of the part that it waits for.
        answer: Of a job that has succeeded.
        error: Of one that has failed, as `errors.ComfyRemoteError.to_json` gives it.
    """

    state: Literal["running", "succeeded", "failed"]
    number: int
    said: str = ""
    wants: str | None = None
    answer: JsonValue = None
    error: dict[str, JsonValue] | None = None


class InstalledAnswer(BaseModel):
    """What ComfyUI has, with what it does not say itself.

    Attributes:
        packs: With version, commit and content.
        models: By folder, with their SHA-256 where it is known.
    """

    packs: list[InstalledPack] = []
    models: dict[str, list[ModelFile]] = {}

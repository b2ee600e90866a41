"""Hugging Face: file pages, ``resolve`` links, and ``hf:ORG/REPO/PATH@REVISION``.

Facts from https://huggingface.co/docs/hub and the hub's answers: ``resolve`` of a large file
redirects to storage and carries ``X-Linked-Size`` and ``X-Linked-Etag``, which is the file's
SHA-256. A gated or private one is 401 or 403.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from pydantic import BaseModel, SecretStr, ValidationError
from yarl import URL

from .kinds import folder_of_tags, folder_on_way
from .link import JsonGetter, Location, unavailable
from .settings import ModelSettings

__all__ = ["HuggingFaceLink"]

_HOSTS = {"huggingface.co", "www.huggingface.co", "hf.co"}
# As the hub names them: anything else could be another address there, asked for with our token.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_SHORT = re.compile(rf"hf:(?P<repo>{_NAME}/{_NAME})/(?P<path>[^@]+)(@(?P<revision>[^@]+))?")
_PAGE = re.compile(
    r"/(?P<repo>(datasets/|spaces/)?[^/]+/[^/]+)/(blob|resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)"
)


class _Repository(BaseModel):
    """What its API says of a repository: ``GET /api/models/ORG/NAME``."""

    tags: list[str] = []


@dataclass(frozen=True, slots=True)
class HuggingFaceLink:
    """One file of one repository.

    Attributes:
        repo: ``ORG/NAME``; ``datasets/ORG/NAME`` for a data set.
        revision: A branch, a tag or a commit.
        token: Sent to ``endpoint``; may be empty.
    """

    endpoint: URL
    repo: str
    revision: str
    path: str
    token: SecretStr

    @classmethod
    def parse(cls, url: str, settings: ModelSettings) -> HuggingFaceLink | None:
        """The link, if it is one to Hugging Face (or to the mirror that is set).

        Raises:
            ModelUnavailable: It leads to Hugging Face, but to no file.
        """
        endpoint = settings.hugging_face
        if url.startswith("hf:"):
            match = _SHORT.fullmatch(url)
        else:
            address = URL(url)
            if address.host not in _HOSTS and address.origin() != endpoint.origin():
                return None
            match = _PAGE.fullmatch(address.raw_path)
        named = [unquote(match[key] or "main") for key in ("revision", "path")] if match else []
        if match is None or any({"", ".", ".."} & set(one.split("/")) for one in named):
            raise unavailable(
                f"{url.partition('?')[0]} is not the address of a file on Hugging Face.",
                "Open the file's own page there and copy its address: "
                "https://huggingface.co/ORG/REPO/blob/main/FILE.",
            )
        return cls(
            endpoint,
            repo=match["repo"],
            revision=named[0],
            path=named[1],
            token=settings.hugging_face_token,
        )

    @property
    def identity(self) -> str:
        """``hf:ORG/REPO/PATH@REVISION``."""
        return f"hf:{self.repo}/{self.path}@{self.revision}"

    @property
    def name(self) -> str:
        """The path's last part."""
        return PurePosixPath(self.path).name

    async def folder(self, get_json: JsonGetter) -> str | None:
        """See `Link`. By the file's folder, else by the repository's tags."""
        if (found := folder_on_way(self.path)) is not None:
            return found
        if self.repo.count("/") > 1:  # a data set, or a space
            return None
        listed = await get_json(self._at(f"/api/models/{self.repo}"))
        try:
            return folder_of_tags(_Repository.model_validate(listed).tags)
        except ValidationError:
            return None

    async def locate(self, get_json: JsonGetter) -> Location:
        """See `Link`. Asks nobody: the ``resolve`` address follows from the parts."""
        del get_json
        return self._at(f"/{self.repo}/resolve/{quote(self.revision, safe='')}/{quote(self.path)}")

    def _at(self, path: str) -> Location:
        base = str(self.endpoint).rstrip("/")
        headers: Mapping[str, SecretStr] = {}
        if token := self.token.get_secret_value():
            headers = {"Authorization": SecretStr(f"Bearer {token}")}
            denied = (
                "It may be gated: open its page while logged in as the owner of HF_TOKEN and ask "
                "for access; or the token lacks the permission to read it."
            )
        else:
            denied = (
                "If it exists, it is private or gated: ask for access on its page, make a token at "
                "https://huggingface.co/settings/tokens, and set HF_TOKEN on the worker."
            )
        return Location(
            shown=self.identity,
            url=URL(base + path, encoded=True),
            headers=headers,
            name=self.name,
            etag_is_sha256=True,
            denied=denied,
            missing="Check repository, revision and file name on Hugging Face.",
        )

"""Civitai: model pages and API links.

Facts from https://developer.civitai.com/site/reference/model-versions: ``GET
/api/v1/model-versions/{id}`` lists the files with their names and SHA-256, ``GET
/api/v1/model-versions/by-hash/{hash}`` likewise those of the version that has a file, ``GET
/api/v1/models/{id}`` the versions, the newest first; ``/api/download/models/{version}`` takes
``type``, ``format``, ``size`` and ``fp``, and redirects to storage with a signed address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import BaseModel, Field, SecretStr, ValidationError
from yarl import URL

from ...errors import ModelUnavailable
from .kinds import folder_of_type
from .link import JsonGetter, Location, unavailable
from .settings import ModelSettings

__all__ = ["CivitaiLink", "file_by_hash"]

# All of them only yield numbers: requests, and the token, go to the endpoint alone.
_HOSTS = {"civitai.com", "www.civitai.com", "civitai.green", "civitai.red"}
_PAGE = re.compile(r"/models/(?P<model>[0-9]{1,18})(/.*)?")
_API = re.compile(r"/api/download/models/(?P<version>[0-9]{1,18})/?")
_VERSION = re.compile("[0-9]{0,18}")
_PUBLIC = "https://civitai.com"
_CHOICES = ("type", "format", "size", "fp")


class _Hashes(BaseModel):
    sha256: str | None = Field(default=None, alias="SHA256", pattern=r"^[0-9A-Fa-f]{64}$")


class _Metadata(BaseModel):
    format: str | None = None
    size: str | None = None
    fp: str | None = None


class _File(BaseModel):
    name: str
    type: str = "Model"
    primary: bool = False
    metadata: _Metadata = _Metadata()
    hashes: _Hashes = _Hashes()

    def fits(self, wanted: Mapping[str, str]) -> bool:
        """Whether it is what ``type``, ``format``, ``size`` and ``fp`` ask for."""
        has = {"type": self.type, **self.metadata.model_dump()}
        return all((has[key] or "").lower() == value.lower() for key, value in wanted.items())


class _Said(BaseModel):
    """What a version says of its model."""

    type: str = ""


class _Version(BaseModel):
    id: int
    files: list[_File] = []
    model: _Said = _Said()


class _Model(BaseModel):
    type: str = ""
    versions: list[_Version] = Field(alias="modelVersions", min_length=1)


@dataclass(frozen=True, slots=True)
class CivitaiLink:
    """One file of one version of a model.

    Attributes:
        model: The model's number; ``None`` in API links, which have the version's.
        version: The version's number; ``None`` for the newest.
        choices: ``type``, ``format``, ``size`` and ``fp`` of the link, which choose a file.
        token: Sent to ``endpoint``; may be empty. A ``token=`` in the link is left out: it
            would be in every copy of the workflow.
    """

    endpoint: URL
    model: int | None
    version: int | None
    choices: tuple[tuple[str, str], ...]
    token: SecretStr

    @classmethod
    def parse(cls, url: str, settings: ModelSettings) -> CivitaiLink | None:
        """The link, if it is one to Civitai.

        Raises:
            ModelUnavailable: It leads to Civitai, but to no model.
        """
        address = URL(url)
        if address.host not in _HOSTS and address.origin() != settings.civitai.origin():
            return None
        choices = tuple((key, address.query[key]) for key in _CHOICES if address.query.get(key))
        if match := _API.fullmatch(address.path):
            return cls(
                settings.civitai, None, int(match["version"]), choices, settings.civitai_token
            )
        match = _PAGE.fullmatch(address.path)
        version = address.query.get("modelVersionId", "")
        if match is None or _VERSION.fullmatch(version) is None:
            raise unavailable(
                f"{url.partition('?')[0]} is not the address of a model on Civitai.",
                "Copy the address of the model's page, with ?modelVersionId=… for one version: "
                "https://civitai.com/models/58390?modelVersionId=62833.",
            )
        number = int(version) if version else None
        return cls(settings.civitai, int(match["model"]), number, choices, settings.civitai_token)

    @property
    def identity(self) -> str:
        """``civitai:VERSION``, ``civitai:model/MODEL`` for the newest one."""
        which = str(self.version) if self.version is not None else f"model/{self.model}"
        chosen = ",".join(f"{key}={value}" for key, value in self.choices)
        return f"civitai:{which}" + (f"?{chosen}" if chosen else "")

    @property
    def name(self) -> None:
        """Only Civitai knows."""

    async def folder(self, get_json: JsonGetter) -> str | None:
        """See `Link`. Asks the API, which says it of each model, and of some files."""
        try:
            listed = await self._listed(get_json)
        except ValidationError:
            return None
        file = self._file(listed)
        return folder_of_type(file.type if file else "") or folder_of_type(listed.model.type)

    async def locate(self, get_json: JsonGetter) -> Location:
        """See `Link`. Asks the API for name and SHA-256, which it may lack."""
        version, file = self.version, None
        try:
            listed = await self._listed(get_json)
            version, file = version or listed.id, self._file(listed)
        except (ModelUnavailable, ValidationError) as error:
            # Of a version, the download's own answer has the name; there is no hash then.
            if version is None and isinstance(error, ModelUnavailable):
                raise
            if version is None:
                raise unavailable(
                    f"Civitai's answer for {self.identity} has no version of the model.",
                    "Name one version: https://civitai.com/models/MODEL?modelVersionId=VERSION.",
                ) from error
        where = self._at(f"/api/download/models/{version}")
        return Location(
            shown=where.shown,
            url=where.url.with_query(dict(self.choices)),
            headers=where.headers,
            name=file.name if file else None,
            sha256=file.hashes.sha256.lower() if file and file.hashes.sha256 else None,
            denied=where.denied,
            missing=where.missing,
        )

    async def _listed(self, get_json: JsonGetter) -> _Version:
        """The version, or the model's newest, as the API lists it.

        Raises:
            ModelUnavailable: The API cannot be asked, or has no such model.
            ValidationError: Its answer has no version.
        """
        if self.version is not None:
            listed = await get_json(self._at(f"/api/v1/model-versions/{self.version}"))
            return _Version.model_validate(listed)
        listed = await get_json(self._at(f"/api/v1/models/{self.model}"))
        model = _Model.model_validate(listed)
        return model.versions[0].model_copy(update={"model": _Said(type=model.type)})

    def _file(self, version: _Version) -> _File | None:
        """What the download will give: the primary file among those that fit."""
        fitting = [file for file in version.files if file.fits(dict(self.choices))]
        return next((file for file in fitting if file.primary), fitting[0] if fitting else None)

    def _at(self, path: str) -> Location:
        token = self.token.get_secret_value()
        return Location(
            shown=self.identity,
            url=URL(str(self.endpoint).rstrip("/") + path),
            headers={"Authorization": SecretStr(f"Bearer {token}")} if token else {},
            denied="The token in CIVITAI_TOKEN is not valid, or the model is in early access: its "
            "page says so."
            if token
            else "Its creator asks for a login: make an API key in Civitai's account settings, "
            "and set CIVITAI_TOKEN on the worker.",
            missing="Check the model's page: it may have been removed.",
        )


async def file_by_hash(sha256: str, settings: ModelSettings, get_json: JsonGetter) -> str | None:
    """The address of the file with this SHA-256, for `CivitaiLink.parse`; ``None`` if none has it.

    Raises:
        ModelUnavailable: Civitai could not be asked.
    """
    anything = CivitaiLink(settings.civitai, None, None, (), settings.civitai_token)
    where = replace(
        anything._at(f"/api/v1/model-versions/by-hash/{sha256}"),
        shown=f"the file with the SHA-256 {sha256[:12]}…",
    )
    try:
        version = _Version.model_validate(await get_json(where))
    except ValidationError:
        return None
    except ModelUnavailable as error:
        if error.details.get("http_status") == 404:
            return None
        raise
    for file in version.files:
        if file.hashes.sha256 is not None and file.hashes.sha256.lower() == sha256:
            said = {} if file.primary else {"type": file.type, **file.metadata.model_dump()}
            chosen = {key: value for key, value in said.items() if value}
            return str(URL(f"{_PUBLIC}/api/download/models/{version.id}").with_query(chosen))
    return None

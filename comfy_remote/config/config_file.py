"""``comfy-remote.toml``, validated. Imported only where there is such a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..clean import one_line
from ..errors import ConfigurationError
from ..json_text import problems_in
from ..net.address import shown
from ..schedule.caps import Cap, OnCap, Span
from ..schedule.prefer import Prefer
from ..targets.kinds import typed_target
from ..text_file import SAVE_AS_UTF8, NotText, text_of
from .cache_settings import CacheMode
from .target_settings import TargetSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CapTable", "ConfigFile", "TargetTable", "checked_config", "read_config"]

_LARGEST = 256_000  # bytes
_OF_A_ROUTE = {"route", "prefer", "patience", "at_most"}
_NO_COMFYUI = ("comfy:", "modal:", "runpod:", "sandbox")


def _printable(word: str) -> str:
    if not word.isprintable():
        raise ValueError("it has characters that cannot be shown")
    return word


_Target = Annotated[str, AfterValidator(typed_target)]
_Word = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]


class PolicyTable(BaseModel):
    """The ``policy`` of a request; times in milliseconds, ``memory`` in bytes.

    The first three are RunPod's. The others are for a gateway of ours.
    """

    model_config = ConfigDict(extra="forbid")

    executionTimeout: Annotated[int, Field(gt=0)] | None = None  # noqa: N815  RunPod's name
    ttl: Annotated[int, Field(gt=0)] | None = None
    lowPriority: bool | None = None  # noqa: N815
    priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    front: bool | None = None
    retryLost: bool | None = None  # noqa: N815
    client: _Word | None = None
    batch: _Word | None = None
    labels: Annotated[list[_Word], Field(max_length=16)] | None = None
    memory: Annotated[int, Field(gt=0)] | None = None


_Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class CapTable(BaseModel):
    """What may be spent, in US dollars: at the top for all targets together, or for one."""

    cap_per_job: _Dollars | None = None
    cap_per_day: _Dollars | None = None
    cap_per_month: _Dollars | None = None
    on_cap: OnCap | None = None

    def caps(self, path: Path, target: str | None = None) -> list[Cap]:
        """Its caps, each with where it is set."""
        said: tuple[tuple[Span, float | None], ...] = (
            ("job", self.cap_per_job),
            ("day", self.cap_per_day),
            ("month", self.cap_per_month),
        )
        of = "" if target is None else f" of [targets.{shown(target)}]"
        return [
            Cap(amount, span, target, f"cap_per_{span}{of} in {one_line(str(path))}")
            for span, amount in said
            if amount is not None
        ]


class TargetTable(CapTable):
    """One ``[targets.NAME]`` table; see `TargetSettings`.

    Attributes:
        names_nothing: The fields that a folder's file may set without being trusted: they name no
            address, no variable and no login (see `trust`).
    """

    model_config = ConfigDict(extra="forbid")
    names_nothing: ClassVar[frozenset[str]] = frozenset(
        {
            *("price_per_hour", "keep_stored", "policy", "route", "prefer", "patience", "at_most"),
            *CapTable.model_fields,
        }
    )

    target: _Target = ""
    route: Annotated[list[_Target], Field(max_length=16)] | None = None
    base_url: str | None = None
    key_env: str | None = None
    price_per_hour: _Dollars | None = None
    user: str | None = None
    password_env: str | None = None
    headers_env: dict[str, str] = {}
    ca_file: str | None = None
    partner_key_env: str | None = None
    keep_stored: bool = False
    bucket: str | None = None
    volume: str | None = None
    sync_token_env: str | None = None
    policy: PolicyTable | None = None
    prefer: Prefer | None = None
    patience: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    at_most: dict[str, Annotated[int, Field(gt=0)]] = {}

    @model_validator(mode="after")
    def _route_is_a_target(self) -> TargetTable:
        """``route = [...]`` is the address ``route:…``."""
        if not (self.target or self.route):
            raise ValueError("it has neither a target nor a route")
        if self.route:
            if any("," in name for name in self.route):
                raise ValueError("the name of a route's member has a comma")
            address = f"route:{','.join(self.route)}"
            if self.target not in ("", address):
                raise ValueError("it has a target and a route")
            self.target = address
        if self.partner_key_env is not None and not self.target.startswith("comfy:"):
            raise ValueError("partner_key_env is for a comfy: target")
        if self.volume is not None and not self.target.startswith("runpod:"):
            raise ValueError("volume is for a runpod: target")
        if self.sync_token_env is not None and self.target.startswith(_NO_COMFYUI):
            raise ValueError("sync_token_env is for a ComfyUI")
        fields = type(self).model_fields
        said = {name for name, one in fields.items() if getattr(self, name) != one.default}
        if not self.target.startswith("route:"):
            if wrong := said & _OF_A_ROUTE - {"route"}:
                raise ValueError(f"{min(wrong)} is for a route")
            return self
        if wrong := said - _OF_A_ROUTE - {"target"}:
            raise ValueError(f"a route has no {min(wrong)}: its members have their own")
        members = self.target.removeprefix("route:").split(",")
        if unknown := [name for name in self.at_most if name not in members]:
            raise ValueError(f"at_most names {unknown[0]!r}, which is not in the route")
        return self

    def to_settings(self, folder: Path | None = None) -> TargetSettings:
        """The same, for those who open it.

        Args:
            folder: Where the file is: its relative paths begin there.
        """
        said = self.model_dump(exclude={"route", *CapTable.model_fields}, exclude_none=True)
        if self.ca_file is not None:
            said["ca_file"] = str((folder or Path()) / Path(self.ca_file).expanduser())
        return TargetSettings(**said)


class ConfigFile(CapTable):
    """One file."""

    model_config = ConfigDict(extra="forbid")

    default: _Target | None = None
    default_workflow: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    allowed_addresses: list[str] = []
    allowed_hosts: list[str] = []
    allowed_folders: list[str] = []
    cache: CacheMode | None = None
    cache_packs: Annotated[list[_Word], Field(max_length=1000)] = []
    cache_max_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    cache_max_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    targets: dict[str, TargetTable] = {}


def read_config(path: Path) -> ConfigFile:
    """Read and check one file.

    Raises:
        ConfigurationError: It cannot be read, or says something unknown.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ConfigurationError(f"{path} is larger than {_LARGEST // 1000} kB.")
        return checked_config(text_of(content), path)
    except FileNotFoundError:
        raise ConfigurationError(f"There is no file {path}.", advice="Check the path.") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}.") from error
    except NotText as error:
        raise ConfigurationError(f"{path} cannot be read: {error}.", advice=SAVE_AS_UTF8) from error


def checked_config(text: str, path: Path) -> ConfigFile:
    """The content of a file, checked.

    Args:
        path: Where it is, for the error.

    Raises:
        ConfigurationError: It is not TOML, or says something unknown.
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number too long, or too many brackets
        raise ConfigurationError(
            f"{path} is not valid TOML: {error}.", advice="Correct that line."
        ) from error
    try:
        return ConfigFile.model_validate(data)
    except ValidationError as error:
        known = [name for name in ConfigFile.model_fields if name != "targets"]
        raise ConfigurationError(
            f"{path}: {problems_in(error, 'the file')}.",
            advice=f"Known keys: {', '.join(known)}, and per target: "
            f"{', '.join(TargetTable.model_fields)}. In a policy: "
            f"{', '.join(PolicyTable.model_fields)}. A key or password itself is never in it: "
            "key_env and the like name the environment variables that hold them.",
        ) from None

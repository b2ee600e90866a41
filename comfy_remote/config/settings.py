"""Which targets there are, and what each name means.

Names are in ``comfy-remote.toml``: the owner's own, and the one in the current folder or the
nearest folder above it, which counts first once the owner trusts what it names (see `trust`).
Secrets are never in that file: it names the environment variable that holds the key.

```toml
default = "gpu"

[targets.gpu]
target = "runpod:abc123xyz"

[targets.box]
target = "runpod:workshop"
base_url = "https://box.local:8000/v2"
key_env = "BOX_TOKEN"
price_per_hour = 0.69

[targets.lan]
target = "http://192.168.1.20:8188"

[targets.cloud]
target = "modal:portraits"
base_url = "https://ann--portraits-front.modal.run"

[targets.studio]
target = "https://comfy.example.org"
user = "ann"
password_env = "STUDIO_PASSWORD"
```
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..advice import Hint
from ..clean import one_line
from ..data_class import dataclass
from ..errors import ConfigurationError, NotTrusted
from ..net.address import base_address, is_loopback, shown
from ..secrets import SECRETS
from ..targets.kinds import (
    Billing,
    billing_of,
    kind_of,
    kinds,
    members_of,
    secret_variables,
    typed_target,
)
from .cache_settings import CacheSettings
from .folders import CONFIG_NAME, CONFIG_VARIABLE, home, is_owners, nearest, owner_folders
from .target_settings import TargetSettings

if TYPE_CHECKING:
    from yarl import URL

    from ..schedule.caps import Cap, OnCap
    from .config_file import ConfigFile

__all__ = ["DEFAULT_TARGET", "Configuration", "Untrusted", "named_in"]

_LONGEST_NAMES = 200  # letters, in a sentence

DEFAULT_TARGET = "sandbox"
"""The target where none is configured: this machine's own, which costs nothing."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Untrusted:
    """What the current folder's file names and the owner has not trusted; none of it is used.

    Attributes:
        default: Its default, unless that is one of the owner's names.
        named: All of it, a line each: see `named_in`.
    """

    path: Path
    targets: Mapping[str, TargetSettings]
    default: str | None
    named: tuple[str, ...]

    def sentence(self) -> str:
        """A sentence for people whose command does not need the file."""
        names = ", ".join(self.targets) or f"default = {shown(self.default or '')}"
        if len(names) > _LONGEST_NAMES:
            names = f"{names[:_LONGEST_NAMES]} …"
        return Hint.UNUSED(names=names, how="named by", path=str(self.path)).mapped(one_line)

    def error(self, what: str, environment: Mapping[str, str] = os.environ) -> NotTrusted:
        """The error for something that was wanted of it.

        Args:
            what: As the beginning of a sentence: ``The target 'gpu'``.
        """
        from .trust import TrustStore, not_trusted

        own = str(owner_folders(environment)[0])
        advice = Hint.TRUST_CONFIG(path=str(self.path), own=own)
        return not_trusted(self.path, self.named, what, TrustStore(home(environment)), advice)


@dataclass(frozen=True)
class Configuration:
    """What the configuration files say: the current folder's, if it may, before the owner's.

    Attributes:
        default: Name or address of the target to use when none is given; see `choose`.
        origins: The file that each name was read from.
        allowed_addresses: http(s) addresses that the owner's files allow besides those of
            ``targets``; a folder's file allows none.
        allowed_hosts: Names of this machine's servers that the owner's files list: see
            `net.own_names`. A folder's file lists none.
        allowed_folders: Where the owner's files let a workflow in ComfyUI name files of this
            machine, besides ComfyUI's own folders; a folder's file allows none.
        owners: The names of the owner's own targets.
        default_workflow: What ``comfy-run-remote`` runs if it is given a text alone, as the owner's
            files say; a folder's file says none.
        cache: How results are cached, as the owner's files say; a folder's file says nothing of it.
        untrusted: What is not used because it is not trusted; ``None`` if nothing is left out.
        caps: What may be spent. Each of them counts: a folder's file adds caps, and changes none.
        on_cap: What happens to jobs that would go over one, by target; by ``None`` on all others.
            A folder's file can only have them cancelled.
        own_targets: The owner's targets as the owner's files say, whatever a folder's file makes of
            their names.
    """

    default: str | None
    targets: Mapping[str, TargetSettings]
    origins: Mapping[str, Path] = field(default_factory=dict)
    allowed_addresses: tuple[str, ...] = ()
    owners: frozenset[str] = frozenset()
    untrusted: Untrusted | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_folders: tuple[Path, ...] = ()
    default_workflow: Path | None = None
    caps: tuple[Cap, ...] = ()
    on_cap: Mapping[str | None, OnCap] = field(default_factory=dict)
    own_targets: Mapping[str, TargetSettings] = field(default_factory=dict)
    cache: CacheSettings = CacheSettings()

    @classmethod
    def load(
        cls,
        folder: Path | None = None,
        *,
        file: Path | str | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> Configuration:
        """Read the files that exist.

        Args:
            folder: Where to begin to look; the current folder by default.
            file: One that the owner has named: it counts first, and no folder is looked at.
                The one that ``COMFY_REMOTE_CONFIG`` names by default.

        Raises:
            ConfigurationError: A file cannot be read, or says something unknown.
        """
        chosen = file or environment.get(CONFIG_VARIABLE)
        near = None if chosen else nearest(CONFIG_NAME, folder)
        owners = [one / CONFIG_NAME for one in reversed(owner_folders(environment))]
        owners = [path for path in owners if path.is_file()]
        if chosen:
            owners.append(Path(chosen).expanduser())
        elif near is not None and is_owners(near, environment):
            owners.append(near)
            near = None
        found = cls(None, {})
        for path in owners:
            found = found._with(_read(path), path)
        if near is not None:
            found = found._with_folders(_read(near), near, environment)
        for target in found.targets.values():
            SECRETS.add_environment(environment, secret_variables(target))
            if target.user and (password := environment.get(target.password_env or "")):
                # In base64, as it is sent, it is as good as the password.
                SECRETS.add(target.password_env or "", f"{target.user}:{password.strip()}")
        return found

    def _with(self, file: ConfigFile, path: Path) -> Configuration:
        """With a file of the owner's, which goes before what was read until now."""
        caps = {(cap.target, cap.span): cap for cap in (*self.caps, *_caps(file, path))}
        return Configuration(
            file.default or self.default,
            {**self.targets, **_settings(file, path)},
            {**self.origins, **dict.fromkeys(file.targets, path)},
            (*self.allowed_addresses, *file.allowed_addresses),
            self.owners | file.targets.keys(),
            allowed_hosts=(*self.allowed_hosts, *file.allowed_hosts),
            allowed_folders=(
                *self.allowed_folders,
                *(path.absolute().parent / Path(one).expanduser() for one in file.allowed_folders),
            ),
            default_workflow=(
                path.absolute().parent / Path(file.default_workflow).expanduser()
                if file.default_workflow
                else self.default_workflow
            ),
            caps=tuple(caps.values()),
            on_cap={**self.on_cap, **_on_cap(file)},
            own_targets={**self.own_targets, **_settings(file, path)},
            cache=_cache(file, self.cache),
        )

    def _with_folders(
        self, file: ConfigFile, path: Path, environment: Mapping[str, str]
    ) -> Configuration:
        """With as much of a folder's file as the owner trusts."""
        from .trust import TrustStore

        named = named_in(file, self.targets)
        missing = set(TrustStore(home(environment)).missing(path, named.values()))
        said = _settings(file, path)
        refused = {name: one for name, one in said.items() if named.get(name) in missing}
        default = file.default
        if named.get(None) not in missing and (default not in refused or default in self.targets):
            default = None
        usable = file.model_copy(
            update={
                "default": None if default else file.default,
                "targets": {n: one for n, one in file.targets.items() if n not in refused},
                "allowed_addresses": [],
                "allowed_hosts": [],
                "allowed_folders": [],
                "default_workflow": None,
                **dict.fromkeys(("cache", "cache_max_gb", "cache_max_days")),
                "cache_packs": [],
            }
        )
        cancelled = {name: how for name, how in _on_cap(usable).items() if how == "cancel"}
        left = tuple(one for one in named.values() if one in missing)
        untrusted = Untrusted(path, refused, default, left) if left else None
        return replace(
            self._with(usable, path),
            owners=self.owners,
            untrusted=untrusted,
            caps=(*self.caps, *_caps(usable, path)),
            on_cap=cancelled if None in cancelled else {**self.on_cap, **cancelled},
            own_targets=self.own_targets,
        )

    def with_own(self, name: str, settings: TargetSettings, path: Path) -> Configuration:
        """With one more target of the owner's, or another one of that name: to try it."""
        return replace(
            self,
            targets={**self.targets, name: settings},
            origins={**self.origins, name: path},
            owners=self.owners | {name},
            own_targets={**self.own_targets, name: settings},
        )

    def unused_secrets(self, settings: TargetSettings) -> list[str]:
        """The variables of a target's secrets that none of the configured targets has."""
        used = {variable for one in self.targets.values() for variable in secret_variables(one)}
        return [variable for variable in secret_variables(settings) if variable not in used]

    def settings_of(self, name: str) -> TargetSettings | None:
        """The settings of a name; ``None`` for what is no name, such as an address.

        Raises:
            NotTrusted: Only a folder's file has that name, and it is not trusted.
        """
        settings = self.targets.get(name)
        refused = self.untrusted
        if settings is None and refused and name in refused.targets and kind_of(name) is None:
            raise refused.error(f"The target {shown(name)!r}")
        return settings

    def address_of(self, name: str) -> str:
        """What a name means; an address means itself. Raises as `settings_of`."""
        settings = self.settings_of(name)
        return name if settings is None else settings.target

    def service_of(self, name: str) -> str:
        """The address that calls of a name go to (`Kind.service_url`). Raises as `settings_of`."""
        settings = self.settings_of(name)
        kind = None if settings is None else kind_of(settings.target)
        if settings is None or kind is None:
            return self.address_of(name)
        return kind.service_url(settings)

    def booked_as(self, name: str, environment: Mapping[str, str] = os.environ) -> str:
        """The name that a target's costs are booked under: the owner's for the same target.

        So neither an address nor another name that a folder's file gives it gets round its caps.
        """
        here = _identity(self.targets.get(name) or TargetSettings(name), environment)
        own = self.own_targets.get(name)
        if own is not None and _identity(own, environment) == here:
            return name
        alike = (n for n, one in self.own_targets.items() if _identity(one, environment) == here)
        return next(alike, name)

    def caps_on(self, name: str) -> list[Cap]:
        """The caps that apply to a job on a target, by its name or address."""
        booked = self.booked_as(name)
        return [
            cap if cap.target is None else replace(cap, target=booked)
            for cap in self.caps
            if cap.target in (None, name, booked)
        ]

    def on_cap_of(self, name: str) -> OnCap:
        """What happens to a job that would go over a cap there while it runs."""
        said = self.on_cap
        return said.get(name) or said.get(self.booked_as(name)) or said.get(None) or "warn"

    def owner_names(
        self,
        name: str,
        sent: TargetSettings | None,
        environment: Mapping[str, str] = os.environ,
    ) -> bool:
        """Whether a target is on this machine, or the owner's files name where it is.

        Not so one that only a folder's file names, trusted or not, or whose address was typed.

        Args:
            sent: Where it is: see `targets.kinds.sent_to`; ``None`` where its name alone tells.
        """
        kind = kind_of(name if sent is None else sent.target)
        if sent is None:
            return name in self.own_targets or (kind is not None and kind.on_this_machine)
        server = (None if kind is None else kind.server(sent, environment)) or ""
        if server.startswith(("http://", "https://")) and is_loopback(base_address(server).host):
            return True
        for own in self.own_targets.values():
            theirs = kind_of(own.target)
            if theirs is None or not theirs.same_server(own, sent, environment):
                continue
            # A server may have several targets, unless its address is the target's.
            if own.target == sent.target or (kind is not None and kind.public_url(sent.target)):
                return True
        return False

    @property
    def of_owner(self) -> Configuration:
        """What the owner's files alone say of targets."""
        return replace(self, targets=self.own_targets)

    def billing_of(self, name: str, environment: Mapping[str, str] = os.environ) -> Billing | None:
        """How a target, by its name or address, costs money; ``None`` for one that is owned.

        One that is owned and has a price costs that, for as long as its runs take.

        One that chooses among others costs what the first of them does that is not owned.
        """
        settings = self.targets.get(name) or TargetSettings(name)
        members = (self.targets.get(one) or TargetSettings(one) for one in members_of(settings))
        for one in (settings, *members):
            if (billing := billing_of(one, environment)) is not None:
                return billing
        return None

    def chosen_default(self) -> str | None:
        """The configured default; ``None`` where there is none.

        Raises:
            NotTrusted: The folder's file has another default than one of the owner's names, and
                it is not trusted.
        """
        if self.untrusted is not None and self.untrusted.default is not None:
            raise self.untrusted.error(f"The default target {shown(self.untrusted.default)!r}")
        return self.default

    def choose(self, wanted: str | None, environment: Mapping[str, str] = os.environ) -> str:
        """The name or address to use: the one wanted, else the usual one.

        Args:
            wanted: As a person types it; see `targets.kinds.typed_target`.

        Raises:
            NotTrusted: See `chosen_default`.
        """
        if wanted:
            chosen, why = typed_target(wanted), "named"
        else:
            self.chosen_default()
            chosen, why = self.usual(environment)
        _log.debug("Target: %s (%s).", shown(chosen), why or "none is configured")
        return chosen

    def usual(self, environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
        """The target where none is named, for every face, and where that is configured.

        The configured default, else what the environment names (`Kind.configured_address`: who has
        set ``RUNPOD_ENDPOINT_ID`` wants that endpoint), else the sandbox, with ``""``.
        """
        if self.default:
            return self.default, "the configured default"
        for kind in kinds():
            if address := kind.configured_address(environment):
                return address, f"named by {kind.address_variable}"
        return DEFAULT_TARGET, ""

    def usual_sentence(self, environment: Mapping[str, str] = os.environ) -> str:
        """Which target is used because none was named, for people: to be said before it is."""
        chosen, why = self.usual(environment)
        if not why:
            none = "There is no default target" if self.targets else "No target is configured"
            return f"{none}: using the sandbox."
        if chosen == self.default:
            return f"Using the configured target: {shown(chosen)}."
        return f"Using {shown(chosen)}, {why}."

    def allows_address(self, url: str | URL, environment: Mapping[str, str] = os.environ) -> bool:
        """Whether the owner has named the origin (scheme, host, port) of an http(s) address.

        In a target's ``target`` or ``base_url``, in ``allowed_addresses``, in the environment
        (`Kind.configured_address`), or confirmed in ComfyUI's page (see
        `TrustStore.confirm_address`). Ask this before anything is sent to an
        address that a workflow or a page has named.

        Args:
            url: With or without a path.
        """
        from .trust import TrustStore, origin_of

        origin = origin_of(url)
        if origin is None:
            return False
        set_here = [one for kind in kinds() if (one := kind.configured_address(environment))]
        here = [*self._addresses(), *map(_public_url, set_here), *self.allowed_addresses]
        named = {origin_of(one) for one in here}
        return origin in named or TrustStore(home(environment)).allows_address(origin)

    def _addresses(self) -> Iterator[str]:
        for settings in self.targets.values():
            yield settings.base_url or ""
            yield _public_url(settings.target)


def _public_url(address: str) -> str:
    """The URL of an address that might be anybody's; empty where only its owner can use it."""
    kind = kind_of(address)
    return (kind and kind.public_url(address)) or ""


def _identity(settings: TargetSettings, environment: Mapping[str, str]) -> tuple[str | None, ...]:
    """What is the same for all spellings of one target, where its provider has a name for it."""
    kind = kind_of(settings.target)
    with suppress(ConfigurationError):  # the address is wrong: opening it says so
        if kind is not None and (known := kind.priced_as(settings, environment)) is not None:
            return kind.name, known
    return settings.target, settings.base_url


def named_in(file: ConfigFile, owners: Collection[str]) -> dict[str | None, str]:
    """What a file names, a line each: its targets by name; by ``None`` a default, if an address.

    Args:
        owners: The names of the owner's own targets: to choose among them names nothing, nor does a
            route among them, unless it takes the name of one, or is called as an address is.
    """
    from .trust import named_default, named_target

    # Of a table that is not trusted, a name that is an address still means that address.
    plain = [name for name in file.targets if kind_of(name) is None]
    named: dict[str | None, str] = {
        name: named_target(name, table)
        for name, table in file.targets.items()
        if name in owners
        or kind_of(name) is not None
        or not _chooses_among(table.target, {*owners, *plain})
    }
    default = file.default
    if default and default not in file.targets and default not in owners:
        kind = kind_of(default)
        if kind is not None and not kind.on_this_machine:
            named[None] = named_default(default)
    return named


def _chooses_among(address: str, names: Collection[str]) -> bool:
    """Whether an address only chooses among names, each of which is judged by itself."""
    members = members_of(TargetSettings(address))
    return bool(members) and all(member in names for member in members)


def _read(path: Path) -> ConfigFile:
    from .config_file import read_config  # most users have no such file

    return read_config(path)


def _caps(file: ConfigFile, path: Path) -> list[Cap]:
    of_targets = (cap for name, table in file.targets.items() for cap in table.caps(path, name))
    return [*file.caps(path), *of_targets]


def _on_cap(file: ConfigFile) -> dict[str | None, OnCap]:
    said: dict[str | None, OnCap | None] = {None: file.on_cap}
    said.update((name, table.on_cap) for name, table in file.targets.items())
    return {name: how for name, how in said.items() if how is not None}


def _cache(file: ConfigFile, before: CacheSettings) -> CacheSettings:
    """What a file says of the cache, and what was said before of the rest."""
    size, days = file.cache_max_gb, file.cache_max_days
    return CacheSettings(
        file.cache or before.mode,
        (*before.packs, *file.cache_packs),
        before.max_bytes if size is None else int(size * 10**9),
        before.max_days if days is None else days,
    )


def _settings(file: ConfigFile, path: Path) -> dict[str, TargetSettings]:
    folder = path.absolute().parent
    return {name: table.to_settings(folder) for name, table in file.targets.items()}

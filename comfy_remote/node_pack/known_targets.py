"""The targets that a page can choose from, without asking any of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..config.folders import home
from ..config.own_file import own_path
from ..config.settings import DEFAULT_TARGET, Configuration
from ..config.target_settings import TargetSettings
from ..config.trust import TrustStore
from ..errors import ComfyRemoteError
from ..jobs.prices import remembered_price
from ..schedule.money import Price
from ..secrets import secret
from ..targets.kinds import Billing, Kind, kind_of, kinds, secret_variables
from ..targets.opening import needs_key
from ..types import JsonValue
from .target_form import form_of

__all__ = ["KnownTarget", "describe_target", "known_targets", "target_choices"]


@dataclass(frozen=True, slots=True)
class KnownTarget:
    """One target.

    Attributes:
        name: What the switch is set to.
        address: What the name means.
        kind: ``None`` where the address means nothing.
        billing: How it costs money; ``None`` for one that is owned.
        default: Whether a page that has not chosen yet should offer it first.
        key_variable: The environment variable that its key is read from, if it takes one; of
            several, one that is not set.
        key_set: Whether all that it takes are set, in the environment or the key ring.
        key_needed: Whether it cannot be used without.
        form: What the page's form shows of it; ``None`` where it cannot be changed there.
        hour: What an hour costs there; ``None`` where that is not known.
        folder: The file of a folder that brought it, if it is not the owner's.
    """

    name: str
    address: str
    kind: Kind | None
    billing: Billing | None
    default: bool
    key_variable: str | None
    key_set: bool
    key_needed: bool
    form: Mapping[str, JsonValue] | None = None
    folder: str | None = None
    hour: Price | None = None

    @property
    def speaks(self) -> str:
        """What speaks at that address; see `Kind.speaks`."""
        return "comfyui" if self.kind is None else self.kind.speaks or self.kind.name

    def to_json(self) -> dict[str, JsonValue]:
        """As in ``GET /remote/status``; never a key."""
        return {
            "name": self.name,
            "address": self.address,
            "kind": self.speaks,
            "type": None if self.kind is None else self.kind.name,
            "title": None if self.kind is None else self.kind.title,
            "billing": self.billing,
            "can": [*sorted(one.value for one in self.kind.can)] if self.kind else [],
            "default": self.default,
            "key": {"variable": self.key_variable, "set": self.key_set, "needed": self.key_needed},
            "form": None if self.form is None else dict(self.form),
            "folder": self.folder,
        }


def known_targets(
    configuration: Configuration, environment: Mapping[str, str]
) -> Iterator[KnownTarget]:
    """Those of ``comfy-remote.toml``, those that the environment names, and the sandbox."""
    set_here = [one for kind in kinds() if (one := kind.configured_address(environment))]
    default, _ = configuration.usual(environment)
    for name in dict.fromkeys([*configuration.targets, *set_here, default, DEFAULT_TARGET]):
        yield describe_target(name, configuration, environment, default=default)


def target_choices(environment: Mapping[str, str]) -> list[str]:
    """What a node's list of targets has: the known ones, and the addresses that are confirmed.

    Empty where the configuration cannot be read: the page says why elsewhere.
    """
    try:
        configuration = Configuration.load()
        names = [target.name for target in known_targets(configuration, environment)]
        confirmed = [*configuration.allowed_addresses, *TrustStore(home()).addresses()]
    except ComfyRemoteError:
        return []
    return [*dict.fromkeys([*names, *confirmed])]


def describe_target(
    name: str,
    configuration: Configuration,
    environment: Mapping[str, str],
    *,
    default: str | None = None,
) -> KnownTarget:
    """One target: a configured name, or an address."""
    settings = configuration.targets.get(name) or TargetSettings(name)
    variables = secret_variables(settings)
    kind = kind_of(settings.target)
    origin = configuration.origins.get(name)
    missing = [name for name in variables if secret(name, environment) is None]
    return KnownTarget(
        name=name,
        address=settings.target,
        kind=kind,
        billing=configuration.billing_of(name, environment),
        default=name == default,
        # Of several (a header each), the one that a person should set.
        key_variable=next(iter(missing or variables), None),
        key_set=bool(variables) and not missing,
        key_needed=needs_key(settings, environment),
        form=form_of(settings) if origin == own_path() else None,
        hour=remembered_price(name, configuration, environment).price,
        folder=None if name in configuration.owners or origin is None else str(origin),
    )

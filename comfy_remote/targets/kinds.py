"""The kinds of target: what an address means, before anything is opened.

A `Kind` is one object, defined beside its target (``targets/runpod/kind.py``) and listed here. All
that must know one kind from another asks it: the configuration, trust, the commands, the page.

An installed package adds a kind of its own: see `plugins`.

Nothing here imports an HTTP stack or pydantic: what a name means is asked more often than a target
is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

from ..config.login import login_headers
from ..config.target_settings import TargetSettings
from ..secrets import secret

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ..schedule.bill import Billed, Running
    from ..schedule.money import Price
    from .base import Target

__all__ = [
    "MEMBER_KEY",
    "Billing",
    "Can",
    "Choose",
    "Kind",
    "Member",
    "ProviderSays",
    "billing_of",
    "forms",
    "kind_of",
    "kinds",
    "members_of",
    "secret_variables",
    "sent_to",
    "typed_target",
    "whose_secret",
]

Choose: TypeAlias = Callable[[str, Sequence[str]], int | None]
"""Asks a person: a question and the options; the index of the one chosen, ``None`` for nobody."""

Billing: TypeAlias = Literal["by run", "by hour"]
"""How a rented target costs money: while a job runs, or while it exists."""

MEMBER_KEY = "route_member"
"""In the details of a job's reference: the target that has it, of those its own chooses among."""


class ProviderSays(NamedTuple):
    """What a target's provider says of it, for ``comfy-remote doctor``.

    Attributes:
        status: ``problem`` if no job can run there; ``skipped`` if it could not be asked.
        message: A sentence.
        advice: What to do; empty when there is nothing to do.
    """

    status: Literal["ok", "warning", "problem", "skipped"]
    message: str
    advice: str = ""


class Member(NamedTuple):
    """One of the targets that another one chooses among: see `Kind.members`.

    Attributes:
        name: As the configuration has it, or its address.
        kind: Of its address.
        billed: Whether it costs money: see `Kind.billing`.
        open: Gives the target, as if it had been named itself; raises what `open_target` raises.
    """

    name: str
    settings: TargetSettings
    kind: Kind
    billed: bool
    open: Callable[[], Target]


class Can(str, Enum):
    """What the targets of a kind may be able to do, besides running jobs."""

    DESCRIBE = "describe"
    """Say which nodes and models they have without starting anything."""
    RECALL = "recall"
    """Find jobs that were not sent from here; see `base.Recalls`."""
    KEEP_INPUTS = "keep inputs"
    """Keep files from one job to the next; see `base.KeepsInputs`."""
    FRONT = "front"
    """Run a job before those that wait; see `base.RunRequest.front`."""
    FETCH_MODELS = "fetch models"
    """Fetch the models of a job that they lack; see `base.RunRequest.models`."""
    RELEASE = "release"
    """Delete stored outputs once they are here; see `base.ReleasesOutputs`."""


class Kind:
    """One kind of target. Subclasses set the attributes and override what differs.

    What reads an address raises a `ConfigurationError` for one that is invalid.

    Attributes:
        name: A word for programs; addresses of the kind begin with it and a colon, unless it
            overrides `matches`.
        title: For people: "a RunPod endpoint".
        forms: The ways to write an address, for people.
        ready: Addresses that need nothing filled in.
        speaks: Whose API its targets speak, for the page; ``name`` by default.
        can: What its targets can do.
        on_this_machine: Whether nothing leaves this machine.
        address_variable: The variable that `configured_address` reads, if there is one.
        default_key: The variable that holds its key, unless the settings name another.
        default_headers: The headers of its login, each with its variable, likewise.
        own_secrets: Variables that hold secrets of this provider, each with a sentence on where a
            person gets it. They are sent to no server but its own: see `is_own_server`.
        no_price: Why a provider that bills its targets cannot be asked for prices; a clause, empty
            where one can.
        own_domain: What to do where a server that is not recognized is the provider's after all.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    forms: ClassVar[tuple[str, ...]]
    ready: ClassVar[tuple[str, ...]] = ()
    speaks: ClassVar[str] = ""
    can: ClassVar[frozenset[Can]] = frozenset()
    on_this_machine: ClassVar[bool] = False
    address_variable: ClassVar[str] = ""
    default_key: ClassVar[str | None] = None
    default_headers: ClassVar[Mapping[str, str]] = {}
    own_secrets: ClassVar[Mapping[str, str]] = {}
    no_price: ClassVar[str] = ""
    own_domain: ClassVar[str] = ""

    # Addresses

    @property
    def prefix(self) -> str:
        """``NAME:``."""
        return f"{self.name}:"

    def matches(self, address: str) -> bool:
        """Whether a text is an address of this kind."""
        return address.startswith(self.prefix)

    def address_in(self, typed: str) -> str | None:
        """The address that a person means by a text; ``None`` where it is none of this kind.

        For what people copy from somewhere, a provider's console or a browser: all that does not
        belong to the address is cut off.
        """
        return typed if self.matches(typed) else None

    def hint(self, text: str) -> str:
        """What to write if a text that is no address was meant as one; empty where it was not."""
        return ""

    def configured_address(self, environment: Mapping[str, str]) -> str | None:
        """The address that the environment names by itself."""
        return None

    def public_url(self, address: str) -> str | None:
        """The URL of an address that might be anybody's; ``None`` where only its owner can use it.

        A page or a workflow may name such an address only if the owner of this machine has
        confirmed it.
        """
        return None

    def service_url(self, settings: TargetSettings) -> str:
        """The URL that calls of a service at this target go to."""
        return settings.target

    # Money

    def billing(self, settings: TargetSettings, environment: Mapping[str, str]) -> Billing | None:
        """How its provider bills the target; ``None`` for one that is owned. See `billing_of`."""
        return None

    def priced_as(self, settings: TargetSettings, environment: Mapping[str, str]) -> str | None:
        """What a target's provider knows it by; ``None`` where no provider can be asked for prices.

        The same text for the same thing only, since prices are stored by it; never a secret.
        """
        return None

    async def price(self, settings: TargetSettings, environment: Mapping[str, str]) -> Price | None:
        """What an hour costs there, as its provider says; ``None`` where it does not say it.

        It is asked, each time: use `jobs.prices`, which remembers.

        Raises:
            ComfyRemoteError: The provider cannot be asked.
        """
        return None

    async def billed(
        self,
        settings: TargetSettings,
        environment: Mapping[str, str],
        since: float,
        until: float,
    ) -> Sequence[Billed] | None:
        """What the provider has billed for a target; ``None`` where it is not asked.

        Args:
            since, until: Seconds since the epoch, both the first second of an hour.

        Raises:
            ComfyRemoteError: It cannot be asked.
        """
        return None

    async def running(self, environment: Mapping[str, str]) -> Sequence[Running] | None:
        """What the account has of this kind that costs money now; ``None`` where it is not asked.

        Raises:
            ComfyRemoteError: The provider cannot be asked.
        """
        return None

    # Secrets

    def key_variable(self, settings: TargetSettings) -> str | None:
        """The environment variable that the target's key is read from."""
        return settings.key_env or self.default_key

    def needs_key(self, settings: TargetSettings, environment: Mapping[str, str]) -> bool:
        """Whether the target cannot be used without its secrets."""
        return any(one != settings.sync_token_env for one in secret_variables(settings))

    def lacking(self, settings: TargetSettings, environment: Mapping[str, str]) -> list[str]:
        """The variables that the target needs and that are not set."""
        if not self.needs_key(settings, environment):
            return []
        return [one for one in secret_variables(settings) if secret(one, environment) is None]

    def server(self, settings: TargetSettings, environment: Mapping[str, str]) -> str | None:
        """The server that a key may be sent to; ``None`` where the provider has to be asked."""
        return settings.target

    def same_server(
        self, today: TargetSettings, sent: TargetSettings, environment: Mapping[str, str]
    ) -> bool:
        """Whether the key of today's settings may go where a job was sent."""
        there = kind_of(sent.target)
        return there is not None and (
            self.server(today, environment) == there.server(sent, environment)
        )

    def secret_source(self, variable: str) -> str | None:
        """Where a person gets one of `own_secrets`; ``None`` for any other variable.

        Upper and lower case are one: on Windows, they name the same variable.
        """
        name = variable.upper()
        return next((text for own, text in self.own_secrets.items() if own.upper() == name), None)

    def is_own_server(self, server: str, environment: Mapping[str, str]) -> bool:
        """Whether the secrets in `own_secrets` may be sent to a server."""
        return True

    def login(
        self, name: str, settings: TargetSettings, environment: Mapping[str, str]
    ) -> dict[str, SecretStr]:
        """The headers that let us in, from the variables that `secret_variables` names.

        Raises:
            ConfigurationError: A variable is not set, or the login is of the wrong sort.
        """
        return login_headers(name, self.with_variables(settings), environment)

    def with_variables(self, settings: TargetSettings) -> TargetSettings:
        """The settings with the variables of this kind, where they name no others."""
        return replace(
            settings,
            key_env=self.key_variable(settings),
            headers_env=settings.headers_env or self.default_headers,
        )

    # Targets

    async def provider_says(
        self, settings: TargetSettings, environment: Mapping[str, str]
    ) -> ProviderSays | None:
        """What the provider's own API says of a target; ``None`` where it is not asked."""
        return None

    def open(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        choose: Choose | None = None,
    ) -> Target:
        """A target of this kind. Nothing is sent yet. Import its module here, and not above.

        Args:
            name: What people call it.
            settings: Of this kind. Its secrets were checked to be for its server.
            choose: Asks a person which, where an address leaves that open.

        Raises:
            ConfigurationError: The settings cannot be used, or a secret is missing.
        """
        raise NotImplementedError

    def members(self, settings: TargetSettings) -> tuple[str, ...]:
        """The targets that one of this kind chooses among, by name or address; usually none."""
        return ()

    def open_among(
        self,
        name: str,
        settings: TargetSettings,
        members: Sequence[Member],
        *,
        sent: Mapping[str, Target] | None = None,
        elsewhere: Callable[[str], Target] | None = None,
        look: bool = False,
    ) -> Target:
        """As `open`, for a kind that has `members`.

        Args:
            members: In their order. Each has a kind, and no members of its own.
            sent: Of a job that was sent before: the target that has it, by the member's name.
            elsewhere: Opens what was a member when a job was sent, by its name.
            look: Only to see how a job stands: nothing is sent.

        Raises:
            NotTrusted: A member is named by a file that is not trusted.
        """
        raise NotImplementedError

    def sent_to(self, details: Mapping[str, str]) -> TargetSettings | None:
        """The settings of the target that a job was sent to; ``None`` if it is of another kind.

        Args:
            details: See `base.RemoteRef`. By default, its ``kind`` and ``address`` tell.
        """
        address = details.get("address")
        return TargetSettings(address) if address and details.get("kind") == self.name else None

    def reopen(self, name: str, details: Mapping[str, str], *, look: bool) -> Target | None:
        """The target of a job, where its details alone tell; ``None`` where settings are needed.

        Args:
            details: Of the job; empty if it was not sent.
            look: Only to see how the job stands: closing the target must end nothing.

        Raises:
            ConfigurationError: The job can no longer be found.
        """
        return None


def kind_of(address: str) -> Kind | None:
    """The kind of target that an address means; ``None`` if it is no address."""
    # Looking for packages takes time, and a name has no colon.
    known = kinds() if ":" in address else _ours()
    return next((kind for kind in known if kind.matches(address)), None)


def members_of(settings: TargetSettings) -> tuple[str, ...]:
    """The targets that one chooses among, by name or address: see `Kind.members`."""
    kind = kind_of(settings.target)
    return () if kind is None else kind.members(settings)


def typed_target(text: str) -> str:
    """What a person typed as a target, as it is used from there on.

    An address in its one spelling (see `Kind.address_in`); a name, or anything else, as it is.

    >>> typed_target("https://api.runpod.ai/v2/abc123xyz/run")
    'runpod:abc123xyz'
    """
    text = text.strip()
    # A name has neither of them; see `kind_of`.
    if not any(mark in text for mark in ":./"):
        return text
    known = kinds() if ":" in text else _ours()
    return next((found for kind in known if (found := kind.address_in(text)) is not None), text)


def kinds() -> Iterator[Kind]:
    """All kinds: ours, then those of installed packages."""
    yield from _ours()
    yield from _installed()


def forms() -> str:
    """The ways to write an address, for people: ``runpod:ENDPOINT, modal:APP, …``."""
    return ", ".join(form for kind in kinds() for form in kind.forms)


def billing_of(settings: TargetSettings, environment: Mapping[str, str]) -> Billing | None:
    """How a target costs money; ``None`` for one that is owned, unless its user set a price."""
    kind = kind_of(settings.target)
    by_provider = None if kind is None else kind.billing(settings, environment)
    return by_provider or ("by run" if kind is not None and settings.price_per_hour else None)


def secret_variables(settings: TargetSettings) -> tuple[str, ...]:
    """All the variables that a target's secrets are read from."""
    kind = kind_of(settings.target)
    key = settings.key_env if kind is None else kind.key_variable(settings)
    headers = settings.headers_env or ({} if kind is None else kind.default_headers)
    named = (
        *(key, settings.password_env, *headers.values()),
        *(settings.partner_key_env, settings.sync_token_env),
    )
    return tuple(dict.fromkeys(name for name in named if name))


def whose_secret(variable: str) -> Kind | None:
    """The kind whose provider gives out what a variable holds; ``None`` if none says so."""
    return next((kind for kind in kinds() if kind.secret_source(variable) is not None), None)


def sent_to(details: Mapping[str, str]) -> TargetSettings | None:
    """The settings of the target that a job was sent to, from the details in its reference."""
    known = kinds() if "kind" in details else _ours()
    return next((sent for kind in known if (sent := kind.sent_to(details)) is not None), None)


@cache
def _ours() -> tuple[Kind, ...]:
    # Here, since each of these modules imports `Kind` from this one.
    from .comfy_api.kind import ComfyApiKind
    from .modal import ModalKind
    from .pod import PodKind
    from .route.kind import RouteKind
    from .runpod.kind import RunPodKind
    from .sandbox.kind import SandboxKind
    from .typed_address.kind import TypedAddressKind

    rented = RunPodKind(), ModalKind(), ComfyApiKind(), PodKind()
    return *rented, RouteKind(), TypedAddressKind(), SandboxKind()


@cache
def _installed() -> tuple[Kind, ...]:
    from .plugins import loaded_plugins

    return tuple(loaded_plugins(_checked))


def _checked(loaded: object, before: Sequence[Kind]) -> Kind:
    """The kind that an entry point names."""
    kind = loaded() if isinstance(loaded, type) else loaded
    if not isinstance(kind, Kind):
        raise TypeError(f"{loaded!r} is not a Kind")
    if kind.name in [one.name for one in (*_ours(), *before)]:
        raise ValueError(f"there is another kind of target called {kind.name!r}")
    _ = kind.title, kind.forms
    return kind

"""A route as a kind of target: its address is a list of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from ...config.target_settings import TargetSettings
from ...errors import ConfigurationError, NotTrusted
from ..kinds import Can, Choose, Kind, Member, typed_target

if TYPE_CHECKING:
    from ..base import Target

__all__ = ["RouteKind"]


class RouteKind(Kind):
    """``route:lan,gpu,modal``; in ``comfy-remote.toml``, ``route = ["lan", "gpu", "modal"]``."""

    name = "route"
    title = "a route"
    forms: ClassVar[tuple[str, ...]] = ("route:NAME,NAME",)
    can = frozenset({Can.DESCRIBE})

    def matches(self, address: str) -> bool:
        """Whether it begins so; a host called ``route`` may have a port."""
        return super().matches(address) and not address[len(self.prefix) :].strip("/").isdecimal()

    def address_in(self, typed: str) -> str | None:
        """Each member in its one spelling."""
        if not self.matches(typed):
            return None
        return self.prefix + ",".join(typed_target(one) for one in _listed(typed))

    def members(self, settings: TargetSettings) -> tuple[str, ...]:
        """Those in the address."""
        return _listed(settings.target)

    def needs_key(self, settings: TargetSettings, environment: Mapping[str, str]) -> bool:
        """Each member needs its own."""
        return False

    def open(
        self,
        name: str,
        settings: TargetSettings,
        environment: Mapping[str, str],
        choose: Choose | None = None,
    ) -> Target:
        """Only one without members: see `open_among`."""
        raise ConfigurationError(
            f"The route {name!r} has no members.",
            advice="Write the targets that it chooses among, with commas: route:NAME,NAME.",
        )

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
        """The route. A member without its key stays one, and is skipped."""
        from .member import OpenMember, RouteTimes
        from .members import RouteOptions
        from .target import RouteTarget

        options = RouteOptions(settings.prefer or "order", settings.patience, settings.at_most)
        times = RouteTimes()
        opened = []
        for member in members:
            target, problem = (sent or {}).get(member.name), ""
            try:
                target = target or member.open()
            except NotTrusted:
                raise
            except ConfigurationError as error:
                problem = f"cannot be used: {error.message.rstrip('.')}"
            opened.append(OpenMember(member, target, problem, times))
        return RouteTarget(
            name, opened, options, sent=sent or {}, elsewhere=elsewhere, look=look, times=times
        )


def _listed(address: str) -> tuple[str, ...]:
    names = (one.strip() for one in address.partition(":")[2].split(","))
    return tuple(dict.fromkeys(one for one in names if one))

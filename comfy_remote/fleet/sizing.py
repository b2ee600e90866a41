"""How many workers a fleet should have, which of them end, and who is surely gone. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from .settings import WorkersSettings

__all__ = ["Decision", "GatewayView", "GatewayWorker", "Member", "decide", "lost"]


@dataclass(frozen=True, slots=True)
class GatewayWorker:
    """What the gateway says of a worker.

    Attributes:
        state: As in ``comfy-remote workers list``: ``idle``, ``running``, ``silent``, …
        seconds: How long it has been in that state; ``None`` if that is not known.
        why: Why it is ``broken``, for people.
    """

    state: str
    seconds: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class GatewayView:
    """What the gateway says of its queue.

    Attributes:
        waiting: Jobs that wait.
        running: Jobs that run, on any worker.
        workers: All of them, by name.
    """

    waiting: int
    running: int
    workers: Mapping[str, GatewayWorker] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Member:
    """A worker of the fleet.

    Attributes:
        id: Of its actor.
        name: At the gateway; empty before it has one.
        node: The id of its machine in the cluster; empty before it is placed.
        state: As in `worker.WorkerStatus`; ``unplaced`` before it has said anything.
        is_current: Whether it is what the settings say.
        fails: Whether it takes no jobs, though it should.
    """

    id: str
    name: str = ""
    node: str = ""
    state: str = "unplaced"
    is_current: bool = True
    fails: bool = False

    @property
    def stays(self) -> bool:
        """Whether it takes jobs, or will."""
        return self.state not in ("draining", "ended")


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done.

    Attributes:
        wanted: How many workers there should be.
        start: How many to create.
        drain: Ids of those that take no further job, and end.
        remove: Ids of those that run nothing: ended, or not placed and not needed.
    """

    wanted: int
    start: int = 0
    drain: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


def decide(
    settings: WorkersSettings,
    members: Sequence[Member],
    view: GatewayView | None,
    *,
    leaving: Collection[str] = (),
) -> Decision:
    """What is to be done about the number of workers.

    One that fails keeps its GPU, so that the next one is placed on another, but is no capacity: as
    many more are started, up to twice the number that is wanted. It ends when the others are
    enough.

    Args:
        view: ``None`` where the gateway does not answer: then nothing is started or ended for its
            queue.
        leaving: Ids of machines that are to have no workers.
    """
    ended = [one.id for one in members if one.state == "ended"]
    old = [one.id for one in members if one.state == "unplaced" and not one.is_current]
    stays = [one for one in members if one.stays and one.node not in leaving and one.id not in old]
    drain = [one.id for one in members if one.stays and one.node and one.node in leaving]
    if view is None:
        able, failing = stays, []
        wanted = max(settings.min, min(len(stays), settings.max))
    else:
        able = [one for one in stays if not one.fails]
        failing = [one.id for one in stays if one.fails]
        wanted = max(settings.min, min(view.waiting + view.running, settings.max))
    surplus = len(able) - wanted
    remove = [one.id for one in able if one.state == "unplaced"][: max(0, surplus)]
    surplus -= len(remove)
    if surplus > 0 and view is not None:
        drain += [one.id for one in _idlest(able, view, settings.idle)[:surplus]]
    if view is not None and sum(_works(one, view) for one in able) >= wanted:
        drain += failing
    if not drain and not any(one.state == "draining" for one in members):
        drain += _next_to_replace(stays, view)
    left = sum(one.id not in remove and one.id not in drain for one in able)
    most = 2 * wanted - sum(one not in drain for one in failing)
    return Decision(wanted, max(0, min(wanted, most) - left), tuple(drain), (*ended, *old, *remove))


def _works(member: Member, view: GatewayView) -> bool:
    """Whether the gateway can give it jobs."""
    at_gateway = view.workers.get(member.name)
    return (
        member.state == "working"
        and not member.fails
        and at_gateway is not None
        and at_gateway.state in ("idle", "running")
    )


def _idlest(members: Sequence[Member], view: GatewayView, idle: float) -> list[Member]:
    """Those without a job for so long, the longest first."""
    found: list[tuple[float, Member]] = []
    for one in members:
        at_gateway = view.workers.get(one.name)
        if at_gateway is not None and at_gateway.state == "idle":
            found.append((at_gateway.seconds or 0.0, one))
    long_enough = [each for each in found if each[0] >= idle]
    return [one for _, one in sorted(long_enough, key=lambda each: -each[0])]


def _next_to_replace(members: Sequence[Member], view: GatewayView | None) -> list[str]:
    """One that is not what the settings say, machine by machine; those without a job first. None
    while a new one is on its way, or fails before any has worked: what the settings say now may
    not work at all.
    """
    placed = [one for one in members if one.state != "unplaced"]
    new = [one for one in placed if one.is_current]
    if view is None:
        return []
    works = [one for one in new if _works(one, view)]
    if any(not one.fails and one not in works for one in new) or (new and not works):
        return []

    def is_busy(one: Member) -> bool:
        at_gateway = view.workers.get(one.name)
        return at_gateway is not None and at_gateway.state == "running"

    old = [one for one in placed if not one.is_current]
    first = sorted(old, key=lambda one: (one.fails, is_busy(one), one.node, one.id))
    return [one.id for one in first[:1]]


def lost(
    view: GatewayView,
    members: Sequence[Member],
    nodes: Collection[str],
    prefix: str,
    known: Collection[str] = (),
) -> set[str]:
    """The names of the fleet's workers at the gateway that no machine of the cluster has.

    One whose machine is out of the cluster ends by itself (`membership`): who has been here for as
    long as that takes is gone for certain.

    Args:
        nodes: Ids of the machines that are in the cluster.
        prefix: What the names of the fleet's workers begin with.
        known: Names that workers of the fleet have had. Another with that prefix may be somebody's
            who has started it by hand: the gateway has to miss it as well.
    """
    claimed = {one.name for one in members if one.node in nodes}
    return {
        name
        for name, one in view.workers.items()
        if ((one.state == "silent" and name.startswith(prefix)) or name in known)
        and name not in claimed
    }

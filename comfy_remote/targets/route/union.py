"""What several targets have together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...types import JsonValue
from ...workflow.schema import Schemas
from ..base import Capabilities

__all__ = ["union_of"]


def union_of(known: Sequence[Capabilities]) -> Capabilities:
    """Each node class as the first target that has it describes it, with the choices of all.

    A workflow is read by it, and its models are offered. Whether one of the targets has all that a
    workflow needs is another question, which is asked when it is sent.
    """
    described = [one.nodes for one in known if one.nodes is not None]
    nodes: dict[str, JsonValue] | None = None
    if described:
        nodes = {}
        for one in reversed(described):
            nodes.update(one)
        choices = _choices(nodes)
        more: dict[tuple[str, str], dict[str, None]] = {}
        for other in described:
            for key, texts in _choices(other).items():
                new = [one for one in texts if one not in choices.get(key, ())]
                more.setdefault(key, {}).update(dict.fromkeys(new))
        union = Schemas(nodes, "").with_choices({key: one for key, one in more.items() if one})
        nodes = {name: dict(union.document(name) or {}) for name in union}
    devices = dict.fromkeys(one.device for one in known if one.device)
    fetching = [one.fetches_models for one in known if one.fetches_models is not None]
    return Capabilities(
        nodes=nodes,
        device=", ".join(devices) or None,
        engine=None,
        fetches_models=any(fetching) if fetching else None,
    )


def _choices(nodes: Mapping[str, JsonValue]) -> dict[tuple[str, str], list[str]]:
    """The choices of each input, by class and name."""
    schemas = Schemas(nodes, "")
    found: dict[tuple[str, str], list[str]] = {}
    for name in schemas:
        schema = schemas.get(name)
        for spec in () if schema is None else schema.inputs:
            texts = [one for one in spec.choices if isinstance(one, str)]
            if texts:
                found[name, spec.name] = texts
    return found

"""Small UI-format workflows for tests, written as the editor saves them."""

from __future__ import annotations

from typing import Any


def saved(
    node_id: int,
    kind: str,
    values: Any = None,
    *,
    inputs: dict[str, tuple[str, int | None]] | None = None,
    widgets: dict[str, int | None] | None = None,
    outputs: dict[str, list[int]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A node. ``inputs`` and ``outputs`` are ``{type or name: links}``; ``widgets`` are inputs
    that have a widget as well."""
    slots: list[dict[str, Any]] = [
        {"name": name, "type": slot_type, "link": link}
        for name, (slot_type, link) in (inputs or {}).items()
    ]
    slots += [
        {"name": name, "type": "*", "link": link, "widget": {"name": name}}
        for name, link in (widgets or {}).items()
    ]
    node = {
        "id": node_id,
        "type": kind,
        "mode": 0,
        "inputs": slots,
        "outputs": [{"name": n, "type": n, "links": ids} for n, ids in (outputs or {}).items()],
        "properties": {},
        **more,
    }
    return node if values is None else {**node, "widgets_values": values}


def workflow(
    *nodes: dict[str, Any],
    links: list[list[Any]] | None = None,
    subgraphs: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """A document of schema 0.4."""
    return {
        "version": 0.4,
        "last_node_id": max((n["id"] for n in nodes), default=0),
        "nodes": list(nodes),
        "links": links or [],
        "definitions": {"subgraphs": subgraphs or []},
    }


def subgraph(
    name: str,
    nodes: list[dict[str, Any]],
    links: list[list[Any]],
    *,
    inputs: dict[str, tuple[str, list[int]]] | None = None,
    outputs: dict[str, tuple[str, list[int]]] | None = None,
) -> dict[str, Any]:
    """A definition; its own inputs are node -10 in its links, its outputs node -20."""
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")

    def ports(given: dict[str, tuple[str, list[int]]] | None) -> list[dict[str, Any]]:
        return [{"name": n, "type": t, "linkIds": ids} for n, (t, ids) in (given or {}).items()]

    return {
        "id": name,
        "name": name,
        "nodes": nodes,
        "links": [dict(zip(keys, link, strict=True)) for link in links],
        "inputs": ports(inputs),
        "outputs": ports(outputs),
    }

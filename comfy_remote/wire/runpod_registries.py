"""Logins for image registries that a RunPod account has, as its REST API lists them.

Source of facts: ``GET /v2/registries`` in RunPod's OpenAPI document (REST API v2), which never
answers with user and password.
"""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["RestRegistry", "RestRegistryList"]


class RestRegistry(BaseModel):
    """One login."""

    id: str
    name: str = ""


class RestRegistryList(BaseModel):
    """The answer to ``GET /v2/registries``."""

    registries: list[RestRegistry]

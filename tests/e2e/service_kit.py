"""A service of a small workflow, in the test's own process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from comfy_remote.calls.store import ValueStore
from comfy_remote.calls.workflow import CallableWorkflow
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.service import Calls, ServiceServer
from comfy_remote.service.results import ResultStore


def workflow() -> dict[str, Any]:
    def remote_input(key: str, **inputs: Any) -> Any:
        return {"class_type": "ComfyRemoteInput", "inputs": {"key": key, **inputs}}

    def remote_output(source: str, key: str) -> Any:
        return {"class_type": "ComfyRemoteOutput", "inputs": {"value": [source, 0], "key": key}}

    return {
        "1": remote_input("image"),
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": remote_output("2", "picture"),
        "4": remote_input("words", value='"nothing"'),
        "5": remote_output("4", "said"),
        "6": {
            "class_type": "SandboxSlow",
            "inputs": {
                "image": ["2", 0],
                "steps": ["7", 0],
                "seconds_per_step": 0.1,
                "preview": False,
            },
        },
        "7": remote_input("steps", value="1"),
        "8": remote_output("6", "slowly"),
    }


class Service:
    """A service in this process, which can be restarted; its target stays."""

    def __init__(self, folder: Path, target: str) -> None:
        self.folder = folder
        self.target = target
        self.workflow = workflow()
        self.timings: dict[str, float] = {}

    @asynccontextmanager
    async def running(self, token: SecretStr | None = None) -> AsyncIterator[ServiceServer]:
        path = self.folder / "invert.json"
        path.write_text(json.dumps(self.workflow))
        with Record(self.folder / "home") as record:
            async with Client(self.target, record=record) as client:
                served = await CallableWorkflow.load(path, client)
                calls = Calls(client, served, ResultStore(self.folder / "results"), **self.timings)
                store = ValueStore(self.folder / "values")
                async with calls, ServiceServer(calls, store, token=token) as server:
                    yield server

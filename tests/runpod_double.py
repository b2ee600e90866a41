"""RunPod's REST API v2 on this machine, as far as endpoints, volumes and the catalogue go.

It is strict: a field that RunPod's OpenAPI document does not know, one that is missing or one that
does not fit is refused as RunPod refuses it (400, 422). ``test_runpod_document.py`` holds it to the
document; where a copy is named, each request and answer of every test is held to it as well.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from runpod_document import RunPodDocument
from threaded_server import ThreadedServer

KEY = "planted-key-51d7e08b42"

CREATE_FIELDS = {
    *("name", "type", "scaling", "gpu", "cpu", "image", "args", "disk", "env", "ports", "registry"),
    *("dataCenterIds", "flashboot", "networkVolumes", "templateId", "timeout", "workers"),
}
UPDATE_FIELDS = CREATE_FIELDS - {"type"}
GPU_FIELDS = {"pools", "excludedTypes", "count", "allowedCudaVersions", "minCudaVersion"}
WORKER_FIELDS = {"min", "max", "idleTimeout"}
VOLUME_FIELDS = {"name", "size", "dataCenter", "type"}
VOLUME_UPDATE_FIELDS = {"name", "size"}


def gpu(
    name: str, pool: str | None, memory: int, price: float | None, **centers: str
) -> dict[str, Any]:
    """A GPU type as the catalogue has it; ``EU_RO_1="HIGH"`` for where it is free."""
    prices: dict[str, Any] = {"secure": 0.44, "community": 0.31}
    if price is not None:
        prices["serverless"] = price
    places = [
        {"id": each.replace("_", "-"), "name": each, "availability": level}
        for each, level in centers.items()
    ]
    some = "HIGH" if any(level != "NONE" for level in centers.values()) else "NONE"
    return {
        "id": f"NVIDIA {name}",
        "name": name.removeprefix("GeForce "),
        "pool": pool,
        "manufacturer": "NVIDIA",
        "memory": memory,
        "secure": True,
        "community": True,
        "price": prices,
        "maxCount": {"secure": 8, "community": 4},
        "availability": some,
        **({"dataCenters": places} if places else {}),
    }


GPUS = [
    gpu("RTX A4000", "AMPERE_16", 16, 0.58, EU_RO_1="LOW"),
    gpu("RTX A4500", "AMPERE_16", 20, 0.58, EU_RO_1="LOW"),
    gpu("L4", "AMPERE_24", 24, 0.68, EU_RO_1="HIGH", US_KS_2="LOW"),
    gpu("GeForce RTX 3090", "AMPERE_24", 24, 0.68, EU_CZ_1="MEDIUM"),
    gpu("GeForce RTX 4090", "ADA_24", 24, 1.1, EU_RO_1="HIGH"),
    gpu("L40", "ADA_48_PRO", 48, 1.9, US_KS_2="HIGH"),
    gpu("L40S", "ADA_48_PRO", 48, 1.9, US_KS_2="HIGH"),
    {**gpu("H100 80GB HBM3", "ADA_80_PRO", 80, 4.18, US_KS_2="NONE"), "name": "H100 SXM"},
    gpu("GeForce RTX 3070", None, 8, None),
]


def center(name: str, *tiers: str) -> dict[str, Any]:
    """A data centre with those tiers of volumes."""
    return {
        "id": name,
        "name": name.title(),
        "region": "EUROPE" if name.startswith("EU") else "NORTH_AMERICA",
        "globalNetwork": True,
        "networkVolumeTypes": list(tiers),
        "compliance": [],
    }


CENTERS = [
    center("EU-RO-1", "STANDARD", "HIGH_PERFORMANCE"),
    center("EU-CZ-1", "STANDARD"),
    center("US-KS-2", "STANDARD", "HIGH_PERFORMANCE"),
    center("US-TX-3", "HIGH_PERFORMANCE"),
    center("US-DE-1"),
]

Before = Callable[[str, str], None]


class _Refused(Exception):
    def __init__(self, status: int, *problems: str) -> None:
        super().__init__(status)
        titles = {400: "Bad Request", 404: "Not Found", 422: "Unprocessable Entity"}
        title = titles.get(status, "Refused")
        self.status = status
        self.body: dict[str, Any] = {
            "title": title,
            "status": status,
            "detail": problems[0] if problems else title,
        }
        if len(problems) > 1:
            self.body["errors"] = list(problems)


class RunPodDouble(ThreadedServer):
    """Listens on a free port inside ``with``.

    Attributes:
        endpoints: What the account has, by id, as it is answered.
        volumes: Likewise.
        registries: Its logins for image registries.
        asked: Methods and paths, in order.
        bodies: Of those with one.
        lost: Requests (``POST /v2/serverless``) that are carried out and not answered: the
            connection ends. Each is removed when that has happened.
        garbled: Likewise, answered with what nobody understands.
        goes_wrong: Faults by the number of the request in ``asked``: ``dropped`` (it is not
            carried out, the connection ends), ``unavailable`` (likewise, 503), ``lost`` and
            ``garbled``. Each is removed when it has happened.
        hidden: How many lists do not have what is made, at first.
        before: Called with method and path before a request is carried out, in its thread.
        may_change: Whether the key may do more than read.
        balance: Whether there is money for an endpoint.
        forced: What a new endpoint has, whatever was asked.
        unlike_the_document: Whether answers may differ from it, by what a test has put there.
    """

    def __init__(self) -> None:
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.registries: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.bodies: list[tuple[str, Any]] = []
        self.lost: list[str] = []
        self.garbled: list[str] = []
        self.goes_wrong: dict[int, str] = {}
        self.hidden = 0
        self.before: Before = lambda _method, _path: None
        self.may_change = True
        self.problems: list[str] = []
        self.balance = True
        self.forced: dict[str, Any] = {}
        self.unlike_the_document = False
        self._document = RunPodDocument.if_named()
        self._lock = threading.Lock()
        self._count = 0
        self._hides: dict[str, int] = {}
        super().__init__(self._serve, "GET", "POST", "PATCH", "DELETE")

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__(*exc_info)
        assert not self.problems, self.problems

    @property
    def changes(self) -> list[str]:
        """What was asked that changes something."""
        return [each for each in self.asked if not each.startswith("GET")]

    def sent(self, request: str) -> list[Any]:
        """The bodies of such requests."""
        return [body for each, body in self.bodies if each == request]

    def show(self, one: str) -> None:
        """Have the lists show something that was hidden."""
        self._hides[one] = 0

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        request = f"{handler.command} {parts.path}"
        sent = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        body = json.loads(sent) if sent else None
        self.before(handler.command, parts.path)
        with self._lock:
            fault = self.goes_wrong.pop(len(self.asked), None)
            self.asked.append(request)
            if body is not None:
                self.bodies.append((request, body))
            if fault in ("lost", "garbled"):
                getattr(self, fault).append(request)
            if fault == "dropped":
                handler.close_connection = True
                handler.connection.close()
                return
            try:
                self._check_key(handler, fault)
                status, answer = self._answered(handler.command, parts.path, parts.query, body)
            except _Refused as refusal:
                status, answer = refusal.status, refusal.body
            self._check(handler.command, parts.path, body, status, answer)
            if request in self.lost:
                self.lost.remove(request)
                handler.close_connection = True
                handler.connection.close()
                return
            if request in self.garbled:
                self.garbled.remove(request)
                answer = {"another": "shape"}
        data = b"" if answer is None else json.dumps(answer).encode()
        handler.send_response(status)
        kind = "application/json" if status < 400 else "application/problem+json"
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _check_key(self, handler: BaseHTTPRequestHandler, fault: str | None) -> None:
        if fault == "unavailable":
            raise _Refused(503, "try later")
        if handler.headers.get("Authorization") != f"Bearer {KEY}":
            raise _Refused(401, "no valid key")
        if handler.command != "GET" and not self.may_change:
            raise _Refused(403, "the key may read only")

    def _check(self, method: str, path: str, body: Any, status: int, answer: Any) -> None:
        """Hold both to the document, where there is one."""
        if self._document is None:
            return
        if body is not None and status < 300:
            found = self._document.problems_of_request(method, path, body)
            self.problems += [f"{method} {path} sent {one}" for one in found]
        found = self._document.problems_of_answer(method, path, status, answer)
        if not self.unlike_the_document:
            self.problems += [f"{method} {path} answered {one}" for one in found]

    def _answered(self, method: str, path: str, query: str, body: Any) -> tuple[int, Any]:
        match method, path.removeprefix("/v2/").split("/"):
            case "GET", ["serverless"]:
                return 200, {"endpoints": self._listed(self.endpoints)}
            case "GET", ["network-volumes"]:
                return 200, {"networkVolumes": self._listed(self.volumes)}
            case "GET", ["catalog", "gpus"]:
                return 200, {"gpus": self._gpus(query)}
            case "GET", ["catalog", "datacenters"]:
                return 200, {"dataCenters": CENTERS}
            case "GET", ["registries"]:
                return 200, {"registries": self.registries}
            case "POST", ["serverless"]:
                return 201, self._new_endpoint(body)
            case "POST", ["network-volumes"]:
                return 201, self._new_volume(body)
            case "GET", ["serverless", one]:
                return 200, self._known(self.endpoints, one)
            case "GET", ["network-volumes", one]:
                return 200, self._known(self.volumes, one)
            case "PATCH", ["serverless", one]:
                return 200, self._changed_endpoint(self._known(self.endpoints, one), body)
            case "PATCH", ["network-volumes", one]:
                return 200, self._grown_volume(self._known(self.volumes, one), body)
            case "DELETE", ["serverless", one]:
                self._known(self.endpoints, one)
                del self.endpoints[one]
                return 204, None
            case "DELETE", ["network-volumes", one]:
                self._known(self.volumes, one)
                if any(one in each["networkVolumes"] for each in self.endpoints.values()):
                    raise _Refused(400, "the volume is in use")
                del self.volumes[one]
                return 204, None
        raise _Refused(404, f"no route {method} {path}")

    def _known(self, there: dict[str, dict[str, Any]], one: str) -> dict[str, Any]:
        if one not in there:
            raise _Refused(404, "not found")
        return there[one]

    def _listed(self, there: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        found = [each for each in there.values() if self._hides.get(each["id"], 0) <= 0]
        for each in there:
            self._hides[each] = self._hides.get(each, 0) - 1
        return found

    def _gpus(self, query: str) -> list[dict[str, Any]]:
        asked = parse_qs(query)
        if set(asked) - {"include", "product"}:
            raise _Refused(422, "unknown parameter")
        if ("include" in asked) != ("product" in asked):
            raise _Refused(400, "include=AVAILABILITY and product go together")
        if "include" in asked:
            return GPUS
        return [
            {key: value for key, value in one.items() if key not in ("availability", "dataCenters")}
            for one in GPUS
        ]

    def _id(self, kind: str) -> str:
        self._count += 1
        found = f"{kind}{self._count:06d}"
        self._hides[found] = self.hidden
        return found

    def _new_volume(self, body: dict[str, Any]) -> dict[str, Any]:
        _closed(body, VOLUME_FIELDS, required={"name", "size", "dataCenter"})
        if not 10 <= body["size"] <= 4096:
            raise _Refused(422, "size must be from 10 to 4096")
        tiers = {each["id"]: each["networkVolumeTypes"] for each in CENTERS}
        there = tiers.get(body["dataCenter"], [])
        if body.get("type", "HIGH_PERFORMANCE") not in there:
            raise _Refused(400, f"{body['dataCenter']} has no such storage")
        made = {"type": there[-1], **body, "id": self._id("vol")}
        self.volumes[made["id"]] = made
        return made

    def _grown_volume(self, volume: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        _closed(body, VOLUME_UPDATE_FIELDS)
        if not body:
            raise _Refused(422, "nothing to change")
        if body.get("size", volume["size"]) < volume["size"]:
            raise _Refused(400, "size may only increase")
        volume.update(body)
        return volume

    def _new_endpoint(self, body: dict[str, Any]) -> dict[str, Any]:
        _closed(body, CREATE_FIELDS, required={"name", "type", "scaling", "image"})
        if ("gpu" in body) == ("cpu" in body):
            raise _Refused(400, "give gpu or cpu")
        if not self.balance:
            raise _Refused(400, "the account's balance is too low")
        self._check_endpoint(body, {})
        one = self._id("ep")
        base = f"https://api.runpod.ai/v2/{one}"
        workers = {"min": 0, "max": 3, **body.get("workers", {})}
        if body["scaling"]["type"] == "QUEUE_DELAY":
            workers.setdefault("idleTimeout", 10)
        made = {
            "id": one,
            "name": body["name"],
            "type": body["type"],
            "requestUrls": {
                "run": f"{base}/run",
                "runSync": f"{base}/runsync",
                "status": f"{base}/status/{{job_id}}",
                "stream": f"{base}/stream/{{job_id}}",
                "cancel": f"{base}/cancel/{{job_id}}",
                "retry": f"{base}/retry/{{job_id}}",
                "purgeQueue": f"{base}/purge-queue",
                "health": f"{base}/health",
            },
            "image": body["image"],
            "args": body.get("args", ""),
            "disk": body.get("disk", 20),
            "ports": body.get("ports", []),
            "env": body.get("env", {}),
            "registry": body.get("registry"),
            "gpu": {
                "count": 1,
                "allowedCudaVersions": [],
                "minCudaVersion": None,
                **body["gpu"],
            },
            "workers": workers,
            "scaling": body["scaling"],
            "dataCenterIds": body.get("dataCenterIds", []),
            "networkVolumes": body.get("networkVolumes", []),
            "timeout": body.get("timeout", 300_000),
            "flashboot": body.get("flashboot", "OFF"),
            "createdAt": f"2026-11-30T12:00:{self._count:02d}Z",
            **self.forced,
        }
        self.endpoints[one] = made
        return made

    def _changed_endpoint(self, endpoint: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        _closed(body, UPDATE_FIELDS)
        self._check_endpoint(body, endpoint)
        gpu_change = body.pop("gpu", {})
        if "pools" in gpu_change:
            endpoint["gpu"].pop("excludedTypes", None)
        endpoint["gpu"] = {**endpoint["gpu"], **gpu_change}
        endpoint["workers"] = {**endpoint["workers"], **body.pop("workers", {})}
        endpoint.update(body)
        if endpoint["scaling"]["type"] == "REQUEST_COUNT":
            endpoint["workers"].pop("idleTimeout", None)
        else:
            endpoint["workers"].setdefault("idleTimeout", 10)
        return endpoint

    def _check_endpoint(self, body: dict[str, Any], now: dict[str, Any]) -> None:
        """What is refused of a new endpoint, or of a change of one."""
        chosen, workers = body.get("gpu", {}), body.get("workers", {})
        _closed(chosen, GPU_FIELDS)
        _closed(workers, WORKER_FIELDS)
        types = {each["id"]: each["pool"] for each in GPUS}
        pools = chosen.get("pools", [])
        if (unknown := [each for each in pools if each not in types.values()]) or (
            not now and not pools
        ):
            raise _Refused(400, f"unknown pools {unknown}")
        excluded = chosen.get("excludedTypes", [])
        if excluded and "pools" not in chosen:
            raise _Refused(422, "excludedTypes needs pools")
        if any(types.get(each) not in pools for each in excluded):
            raise _Refused(400, "an excluded type is in none of the pools")
        if pools and {each for each, pool in types.items() if pool in pools} <= set(excluded):
            raise _Refused(400, "no GPU is left")
        if chosen.get("allowedCudaVersions") and chosen.get("minCudaVersion"):
            raise _Refused(400, "a list of CUDA versions and a floor")
        scaling = body.get("scaling", now.get("scaling", {}))
        wanted = {"QUEUE_DELAY": "queueDelay", "REQUEST_COUNT": "requestCount"}
        _closed(scaling, {"type", wanted[scaling["type"]]}, required={wanted[scaling["type"]]})
        if "idleTimeout" in workers and scaling["type"] == "REQUEST_COUNT":
            raise _Refused(400, "idleTimeout does not go with REQUEST_COUNT")
        if not 1 <= workers.get("idleTimeout", 1) <= 3600:
            raise _Refused(422, "idleTimeout must be from 1 to 3600")
        if any(not isinstance(each, str) for each in body.get("env", {}).values()):
            raise _Refused(422, "env has strings")
        if not re.fullmatch("OFF|FLASHBOOT|PRIORITY_FLASHBOOT", body.get("flashboot", "OFF")):
            raise _Refused(422, "flashboot")
        known = [each["id"] for each in self.registries]
        if body.get("registry") is not None and body["registry"] not in known:
            raise _Refused(400, "no such registry credential")
        for one in body.get("networkVolumes", []):
            if one not in self.volumes:
                raise _Refused(400, f"there is no volume {one}")
            centers = body.get("dataCenterIds", now.get("dataCenterIds", []))
            if centers and self.volumes[one]["dataCenter"] not in centers:
                raise _Refused(400, f"the volume {one} is elsewhere")


def _closed(body: object, known: set[str], *, required: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    if not isinstance(body, dict):
        raise _Refused(422, "it is no object")
    problems = [f"$: additional properties '{each}' not allowed" for each in set(body) - known]
    problems += [f"$: missing property '{each}'" for each in required - set(body)]
    if problems:
        raise _Refused(422, "request validation failed", *problems)

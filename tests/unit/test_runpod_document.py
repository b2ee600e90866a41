"""What is said to RunPod's REST API, and our double of it, against RunPod's own description."""

from __future__ import annotations

import os
from typing import Any

import pytest
import runpod_double
from pydantic import BaseModel, SecretStr
from runpod_document import RunPodDocument
from runpod_double import KEY, RunPodDouble

from comfy_remote.targets.runpod.account import RunPodAccount
from comfy_remote.wire import (
    runpod_endpoints,
    runpod_prices,
    runpod_registries,
    runpod_volumes,
)
from comfy_remote.wire.runpod_endpoints import (
    EndpointRequest,
    GpuRequest,
    ScalingRequest,
    WorkersRequest,
)
from comfy_remote.wire.runpod_volumes import VolumeGrowth, VolumeRequest


@pytest.fixture(scope="module")
def document() -> RunPodDocument:
    return RunPodDocument()


SENT: dict[str, type[BaseModel]] = {
    "CreateEndpointRequest": EndpointRequest,
    "CreateEndpointGpuConfig": GpuRequest,
    "EndpointWorkers": WorkersRequest,
    "CreateNetworkVolumeRequest": VolumeRequest,
    "UpdateNetworkVolumeRequest": VolumeGrowth,
}
READ: dict[str, type[BaseModel]] = {
    "Endpoint": runpod_endpoints.RestEndpoint,
    "EndpointGpuConfig": runpod_endpoints.RestGpuChoice,
    "EndpointWorkers": runpod_endpoints.RestWorkers,
    "NetworkVolume": runpod_volumes.RestVolume,
    "Registry": runpod_registries.RestRegistry,
    "ListRegistriesResponse": runpod_registries.RestRegistryList,
    "DataCenter": runpod_volumes.RestDataCenter,
    "GpuType": runpod_prices.RestGpu,
    "DataCenterAvailability": runpod_prices.GpuCenter,
    "ListEndpointsResponse": runpod_endpoints.RestEndpointList,
    "ListNetworkVolumesResponse": runpod_volumes.RestVolumeList,
    "ListGpuTypesResponse": runpod_prices.RestGpuList,
    "ListDataCentersResponse": runpod_volumes.RestDataCenterList,
}


@pytest.mark.parametrize("name", SENT)
def test_nothing_is_sent_that_the_document_does_not_know(
    document: RunPodDocument, name: str
) -> None:
    ours = SENT[name].model_json_schema(mode="serialization")["properties"]
    assert set(ours) <= document.fields(name)


@pytest.mark.parametrize("name", READ)
def test_nothing_is_read_that_the_document_does_not_have(
    document: RunPodDocument, name: str
) -> None:
    ours = READ[name].model_json_schema(mode="validation")["properties"]
    assert set(ours) <= document.fields(name)


def test_what_makes_an_endpoint_is_a_request_of_the_document(document: RunPodDocument) -> None:
    wanted = EndpointRequest(
        name="portraits",
        type="QUEUE",
        image="ghcr.io/x/y:1",
        disk=30,
        env={"A": "b"},
        gpu=GpuRequest(pools=("ADA_24",), excluded=("NVIDIA L4",), count=1, least_cuda="13.0"),
        workers=WorkersRequest(min=0, max=2, idle_timeout=60),
        scaling=ScalingRequest(type="QUEUE_DELAY", delay=4),
        centers=("EU-RO-1",),
        volumes=("agv6w2qcg7",),
        timeout=3_600_000,
        flashboot="FLASHBOOT",
    )
    body: Any = wanted.body()
    assert document.problems("CreateEndpointRequest", body) == []
    del body["type"]
    assert document.problems("UpdateEndpointRequest", body) == []
    assert document.problems("CreateEndpointRequest", {**body, "type": "QUEUE", "more": 1})
    volume = VolumeRequest(name="x", size=10, center="EU-RO-1", type="STANDARD")
    assert document.problems("CreateNetworkVolumeRequest", volume.body()) == []
    assert document.problems("UpdateNetworkVolumeRequest", VolumeGrowth(size=20).body()) == []


def test_the_double_takes_the_documents_fields(document: RunPodDocument) -> None:
    known = {
        "CreateEndpointRequest": runpod_double.CREATE_FIELDS,
        "UpdateEndpointRequest": runpod_double.UPDATE_FIELDS,
        "CreateEndpointGpuConfig": runpod_double.GPU_FIELDS,
        "UpdateEndpointGpuConfig": runpod_double.GPU_FIELDS,
        "EndpointWorkers": runpod_double.WORKER_FIELDS,
        "CreateNetworkVolumeRequest": runpod_double.VOLUME_FIELDS,
        "UpdateNetworkVolumeRequest": runpod_double.VOLUME_UPDATE_FIELDS,
    }
    assert {name: document.fields(name) for name in known} == known


async def test_the_double_answers_as_the_document_says(document: RunPodDocument) -> None:
    """It holds each of its answers to it: here, one of each."""
    del document  # it is named
    environment = {**os.environ, "RUNPOD_API_BASE_URL": ""}
    with RunPodDouble() as double:
        environment["RUNPOD_API_BASE_URL"] = double.url
        async with RunPodAccount(SecretStr(KEY), environment) as account:
            assert await account.gpus()
            assert await account.data_centers()
            volume = await account.make_volume(
                VolumeRequest(name="v", size=10, center="EU-RO-1", type="STANDARD")
            )
            assert (await account.grow_volume(volume.id, VolumeGrowth(size=20))).size == 20
            made = await account.make_endpoint(
                EndpointRequest(
                    name="one",
                    type="QUEUE",
                    image="x",
                    gpu=GpuRequest(pools=("ADA_24",)),
                    scaling=ScalingRequest(type="REQUEST_COUNT", count=1),
                    volumes=(volume.id,),
                )
            )
            await account.change_endpoint(made.id, EndpointRequest(flashboot="FLASHBOOT"))
            (found,) = await account.endpoints()
            assert (found.flashboot, found.timeout, found.volumes) == (
                *("FLASHBOOT", 300_000),
                [volume.id],
            )
            await account.remove_endpoint(made.id)
            await account.remove_volume(volume.id)
            assert (await account.endpoints(), await account.volumes()) == ([], [])

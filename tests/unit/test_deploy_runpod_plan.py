"""What ``deploy runpod`` plans for what is wanted and what is there."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from runpod_double import CENTERS, GPUS

from comfy_remote.deploy.memory import GpuMemory, memory_for_models
from comfy_remote.deploy.runpod.gpus import gpus_by_memory, gpus_by_name
from comfy_remote.deploy.runpod.listed import volume_per_month
from comfy_remote.deploy.runpod.mark import Mark, checked_name
from comfy_remote.deploy.runpod.plan import Does, Plan, plan_deployment, plan_removal
from comfy_remote.deploy.runpod.record import Made
from comfy_remote.deploy.runpod.there import There
from comfy_remote.deploy.runpod.wanted import (
    IMAGE,
    VolumeWanted,
    Wanted,
    environment_of,
    secret_names,
    volume_wanted,
)
from comfy_remote.errors import ConfigurationError
from comfy_remote.secrets import SECRETS
from comfy_remote.wire.runpod_endpoints import EndpointRequest, RestEndpoint
from comfy_remote.wire.runpod_prices import RestGpu
from comfy_remote.wire.runpod_registries import RestRegistry
from comfy_remote.wire.runpod_volumes import RestDataCenter, RestVolume

CATALOG = [RestGpu.model_validate(one) for one in GPUS]
PLACES = [RestDataCenter.model_validate(one) for one in CENTERS]
MARK = Mark("portraits", "0123456789ab")
OLD = Mark("portraits", "ba9876543210")


def there(endpoints: Any = (), volumes: Any = ()) -> There:
    return There(
        [RestEndpoint.model_validate(one) for one in endpoints],
        [RestVolume.model_validate(one) for one in volumes],
        CATALOG,
        PLACES,
    )


def endpoint(**more: Any) -> dict[str, Any]:
    return {
        "id": "ep1",
        "name": "portraits",
        "type": "QUEUE",
        "image": IMAGE,
        "disk": 30,
        "env": {"COMFY_REMOTE_DEPLOYMENT": str(OLD), "DOWNLOAD_MODELS": "true"},
        "gpu": {"pools": ["ADA_24"], "count": 1, "allowedCudaVersions": []},
        "workers": {"min": 0, "max": 2, "idleTimeout": 60},
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4},
        "dataCenterIds": [],
        "networkVolumes": [],
        "timeout": 3_600_000,
        "flashboot": "FLASHBOOT",
        "createdAt": "2026-11-30T12:00:00Z",
        **more,
    }


def volume(size: int = 100, center: str = "EU-RO-1", **more: Any) -> dict[str, Any]:
    name = OLD.volume
    return {
        "id": "vol1", "name": name, "size": size, "dataCenter": center, "type": "STANDARD", **more
    }  # fmt: skip


def planned(wanted: Wanted, found: There | None = None, made: Made | None = None) -> Plan:
    return plan_deployment(wanted, found or there(), made, MARK)


def sent(plan: Plan, kind: str = "endpoint") -> Any:
    (step,) = [one for one in plan.steps if one.kind == kind]
    return None if step.request is None else step.request.body()


def test_a_new_endpoint_sets_every_default_that_bites() -> None:
    plan = planned(Wanted("portraits", memory=GpuMemory(24, "it loads sd.safetensors")))
    assert sent(plan) == {
        "name": "portraits",
        "type": "QUEUE",
        "image": IMAGE,
        "disk": 30,
        "env": {"DOWNLOAD_MODELS": "true", "COMFY_REMOTE_DEPLOYMENT": "portraits/0123456789ab"},
        "gpu": {"pools": ["ADA_24", "AMPERE_24"], "count": 1, "minCudaVersion": "13.0"},
        "workers": {"min": 0, "max": 2, "idleTimeout": 60},
        "scaling": {"type": "QUEUE_DELAY", "queueDelay": 4.0},
        "timeout": 3_600_000,
        "flashboot": "FLASHBOOT",
    }
    (step,) = plan.changes
    assert step.does is Does.MAKE
    assert step.cost == "$0.68 to $1.10 an hour for each worker that runs, nothing while none does"
    assert (step.per_month, plan.to_json()["per_month"]) == (0, 0)
    (why,) = plan.notes
    assert why.startswith("GPU: RTX 4090 or L4 or RTX 3090, since it loads sd.safetensors.")


@pytest.mark.parametrize(
    ("use", "workers", "scaling"),
    [
        (
            "nights",
            {"min": 0, "max": 3, "idleTimeout": 15},
            {"type": "QUEUE_DELAY", "queueDelay": 4},
        ),
        ("steady", {"min": 0, "max": 3}, {"type": "REQUEST_COUNT", "requestCount": 1}),
    ],
)
def test_the_use_decides_how_workers_come_and_go(use: Any, workers: Any, scaling: Any) -> None:
    body = sent(planned(Wanted("portraits", use=use)))
    assert (body["workers"], body["scaling"]) == (workers, scaling)


def test_active_workers_are_a_standing_charge() -> None:
    plan = planned(Wanted("portraits", gpus=("L40S",), min_workers=2, max_workers=1))
    assert sent(plan)["workers"] == {"min": 2, "max": 2, "idleTimeout": 60}
    assert plan.steps[0].per_month == pytest.approx(2 * 1.9 * 730)
    assert "$2,774.00 a month for 2 active workers, used or not" in plan.steps[0].cost


def test_a_volume_is_made_first_and_the_endpoint_runs_beside_it() -> None:
    plan = planned(
        Wanted("portraits", gpus=("RTX 4090",), volume=VolumeWanted(None, 100, "EU-RO-1"))
    )
    made, beside = plan.steps
    assert made.request is not None
    assert made.request.body() == {
        "name": "comfy-remote-portraits-0123456789ab",
        "size": 100,
        "dataCenter": "EU-RO-1",
        "type": "STANDARD",
    }
    assert (made.does, made.per_month) == (Does.MAKE, pytest.approx(7))
    assert sent(plan)["dataCenterIds"] == ["EU-RO-1"]
    assert "networkVolumes" not in sent(plan)  # it has no id yet
    assert beside.does is Does.MAKE


def test_the_tier_without_a_listed_price_is_not_counted_as_free() -> None:
    wanted = Wanted("portraits", gpus=("L40S",), volume=VolumeWanted(None, 100, "US-TX-3"))
    plan = planned(wanted)
    assert sent(plan, "volume")["type"] == "HIGH_PERFORMANCE"
    assert plan.steps[0].per_month is None
    assert plan.to_json()["per_month"] is None
    assert any("US-TX-3 is not listed with an S3 API" in note for note in plan.notes)


@pytest.mark.parametrize("center", [None, "US-DE-1", "MARS-1"])
def test_a_data_centre_without_volumes_is_refused_with_those_that_have_the_gpu(
    center: str | None,
) -> None:
    wanted = Wanted("portraits", gpus=("L40S",), volume=VolumeWanted(None, 50, center))
    with pytest.raises(ConfigurationError) as refused:
        planned(wanted)
    assert "50@DATACENTER" in refused.value.advice
    assert refused.value.advice.endswith("now: US-KS-2.")


def test_what_is_there_as_it_is_wanted_is_left() -> None:
    found = there([endpoint(networkVolumes=["vol1"], dataCenterIds=["EU-RO-1"])], [volume()])
    wanted = Wanted(
        "portraits",
        gpus=("RTX 4090",),
        volume=VolumeWanted(None, 100, "EU-RO-1"),
        use="a few an hour",
        max_workers=2,
        image=IMAGE,
        timeout=3600,
        env={"DOWNLOAD_MODELS": "true"},
    )
    plan = planned(wanted, found)
    assert plan.changes == []
    assert plan.mark == OLD
    assert planned(Wanted("portraits"), found).changes == []  # nor is anything named


def test_only_what_is_named_is_changed() -> None:
    plan = planned(Wanted("portraits", max_workers=5), there([endpoint()]))
    assert sent(plan) == {"workers": {"min": 0, "max": 5, "idleTimeout": 60}}
    assert plan.steps[0].facts == ("at most 2 → 5 workers",)
    plan = planned(Wanted("portraits", gpus=("L4",)), there([endpoint()]))
    assert sent(plan) == {
        "gpu": {"pools": ["AMPERE_24"], "excludedTypes": ["NVIDIA GeForce RTX 3090"]}
    }
    assert plan.steps[0].facts == ("RTX 4090 → L4",)
    plan = planned(Wanted("portraits", use="steady"), there([endpoint(flashboot="OFF")]))
    assert sent(plan) == {
        "scaling": {"type": "REQUEST_COUNT", "requestCount": 1},
        "workers": {"min": 0, "max": 3},
        "flashboot": "FLASHBOOT",
    }


def test_variables_of_the_endpoint_stay_beside_new_ones() -> None:
    theirs = {**endpoint()["env"], "THEIRS": "x"}
    wanted = Wanted("portraits", env=environment_of((), ("HF_TOKEN=hf",)))
    plan = planned(wanted, there([endpoint(env=theirs)]))
    assert sent(plan) == {"env": {**theirs, "HF_TOKEN": "{{ RUNPOD_SECRET_hf }}"}}
    assert plan.secrets == ("hf",)
    hidden = {**endpoint()["env"], "THEIRS": "***"}
    with pytest.raises(ConfigurationError, match="hides the values"):
        planned(wanted, there([endpoint(env=hidden)]))


def test_workers_that_runpod_has_set_to_none_come_back() -> None:
    unused = endpoint(workers={"min": 0, "max": 0, "idleTimeout": 60})
    plan = planned(Wanted("portraits"), there([unused]))
    assert sent(plan) == {"workers": {"min": 0, "max": 2, "idleTimeout": 60}}


def test_no_idle_time_where_runpod_takes_none() -> None:
    with pytest.raises(ConfigurationError, match="idle time"):
        planned(Wanted("portraits", use="steady", idle=30))
    counting = endpoint(
        scaling={"type": "REQUEST_COUNT", "requestCount": 2}, workers={"min": 0, "max": 2}
    )
    with pytest.raises(ConfigurationError, match="idle time"):
        planned(Wanted("portraits", idle=30), there([counting]))
    plan = planned(Wanted("portraits", max_workers=4), there([counting]))
    assert sent(plan) == {"workers": {"min": 0, "max": 4}}


def test_a_volume_grows_and_neither_shrinks_nor_moves() -> None:
    found = there([endpoint(networkVolumes=["vol1"])], [volume(100)])
    plan = planned(Wanted("portraits", volume=VolumeWanted(None, 200)), found)
    assert sent(plan, "volume") == {"size": 200}
    assert plan.steps[0].facts == ("100 GB → 200 GB; it cannot shrink again",)
    plan = planned(Wanted("portraits", volume=VolumeWanted(None, 50)), found)
    assert plan.changes == []
    assert any("never shrink" in note for note in plan.notes)
    with pytest.raises(ConfigurationError, match="cannot move"):
        planned(Wanted("portraits", volume=VolumeWanted(None, 100, "EU-CZ-1")), found)


def test_a_volume_of_the_users_own_is_attached_beside_what_is_there() -> None:
    theirs = volume(id="mine", name="models")
    found = there([endpoint(networkVolumes=["vol0"], dataCenterIds=["EU-CZ-1"])], [theirs])
    plan = planned(Wanted("portraits", volume=VolumeWanted("mine")), found)
    assert sent(plan) == {
        "networkVolumes": ["vol0", "mine"],
        "dataCenterIds": ["EU-CZ-1", "EU-RO-1"],
    }
    with pytest.raises(ConfigurationError, match="no network volume 'nowhere'"):
        planned(Wanted("portraits", volume=VolumeWanted("nowhere")), found)


def test_what_was_begun_here_is_gone_on_with() -> None:
    begun = Made(name="portraits", nonce="ba9876543210")
    assert planned(Wanted("portraits"), made=begun).mark == OLD
    # The volume is there, its endpoint is not.
    plan = planned(Wanted("portraits"), there([], [volume()]))
    assert (plan.mark, sent(plan)["networkVolumes"]) == (OLD, ["vol1"])


def test_of_several_the_recorded_one_is_ours_else_the_oldest() -> None:
    newer = endpoint(id="ep0", createdAt="2026-11-30T13:00:00Z")
    found = there([newer, endpoint()])
    plan = planned(Wanted("portraits"), found)
    assert plan.steps[0].id == "ep1"
    assert any("the endpoint ep0 as well" in note for note in plan.notes)
    made = Made(name="portraits", nonce=OLD.nonce, endpoint="ep0")
    assert planned(Wanted("portraits"), found, made).steps[0].id == "ep0"


@pytest.mark.parametrize("env", [None, {"COMFY_REMOTE_DEPLOYMENT": "***"}])
def test_a_recorded_endpoint_whose_variables_are_hidden_is_not_made_again(env: Any) -> None:
    found = there([endpoint(env=env)])
    made = Made(name="portraits", nonce=OLD.nonce, endpoint="ep1")
    plan = planned(Wanted("portraits"), found, made)
    assert [(one.does, one.id) for one in plan.steps] == [(Does.LEAVE, "ep1")]
    assert plan.mark == OLD
    gone = there([endpoint(env={})])  # its mark was taken away: it is somebody's own now
    assert planned(Wanted("portraits"), gone, made).steps[0].does is Does.MAKE


def test_gpus_that_are_not_free_where_they_would_be_are_named() -> None:
    wanted = Wanted("portraits", gpus=("RTX 4090",), volume=VolumeWanted(None, 50, "US-KS-2"))
    plan = planned(wanted)
    assert (
        "US-KS-2 has no RTX 4090 free now: jobs would wait. Some are free in EU-RO-1." in plan.notes
    )
    assert (
        "No H100 SXM is free now: jobs would wait."
        in planned(Wanted("portraits", gpus=("H100",))).notes
    )


def test_models_without_a_volume_take_disk_and_are_mentioned() -> None:
    plan = planned(Wanted("portraits", gpus=("L40S",), models=34_000_000_001))
    assert sent(plan)["disk"] == 65
    assert any("each new worker fetches 34.0 GB" in note for note in plan.notes)


def test_removing_takes_what_we_made_and_the_volume_only_if_that_is_said() -> None:
    found = there(
        [endpoint(), endpoint(id="other", env={})],
        [volume(), volume(id="mine", name="models")],
    )
    plan = plan_removal("portraits", found, None, with_volume=False)
    assert [(one.does, one.id) for one in plan.steps] == [
        (Does.REMOVE, "ep1"),
        (Does.LEAVE, "vol1"),
    ]
    plan = plan_removal("portraits", found, None, with_volume=True)
    assert [one.id for one in plan.changes] == ["ep1", "vol1"]
    with pytest.raises(ConfigurationError, match="nothing that Comfy Remote made"):
        plan_removal("models", found, None, with_volume=True)


def test_removing_what_was_not_made_from_here_says_so() -> None:
    found = there([endpoint()], [volume()])
    for made in (None, Made(name="portraits", nonce="ffffffffffff")):
        plan = plan_removal("portraits", found, made, with_volume=True)
        assert any("the endpoint ep1 and the volume vol1" in note for note in plan.notes)
    made = Made(name="portraits", nonce=OLD.nonce)  # begun here; the answers got lost
    assert plan_removal("portraits", found, made, with_volume=True).notes == ()
    made = Made(name="portraits", nonce="ffffffffffff", endpoint="ep1")
    plan = plan_removal("portraits", found, made, with_volume=True)
    assert any("no record of making the volume vol1:" in note for note in plan.notes)


def test_a_volume_that_another_endpoint_uses_is_not_removed() -> None:
    other = endpoint(id="other", name="video", env={}, networkVolumes=["vol1"])
    with pytest.raises(ConfigurationError, match="another endpoint: video"):
        plan_removal("portraits", there([endpoint(), other], [volume()]), None, with_volume=True)


@pytest.mark.parametrize(
    ("names", "pools", "excluded"),
    [
        (["RTX 4090"], ["ADA_24"], []),
        (["rtx 3090"], ["AMPERE_24"], ["NVIDIA L4"]),
        (["L40S", "NVIDIA GeForce RTX 4090"], ["ADA_48_PRO", "ADA_24"], ["NVIDIA L40"]),
        (["H100"], ["ADA_80_PRO"], []),  # the beginning of a name
        (["AMPERE_24"], ["AMPERE_24"], []),
        (["L4"], ["AMPERE_24"], ["NVIDIA GeForce RTX 3090"]),  # not L40
    ],
)
def test_gpus_by_name(names: list[str], pools: list[str], excluded: list[str]) -> None:
    choice = gpus_by_name(names, CATALOG)
    assert (list(choice.pools), list(choice.excluded)) == (pools, excluded)


def test_a_gpu_that_serverless_workers_cannot_have() -> None:
    with pytest.raises(ConfigurationError, match="RTX 3070 for pods only"):
        gpus_by_name(["RTX 3070"], CATALOG)
    with pytest.raises(ConfigurationError, match="no GPU 'RTX 9090'") as unknown:
        gpus_by_name(["RTX 9090"], CATALOG)
    assert "L40S" in unknown.value.advice


def test_gpus_by_memory_are_the_smallest_that_are_enough() -> None:
    assert gpus_by_memory(0, CATALOG).pools == ("AMPERE_16",)
    assert gpus_by_memory(24, CATALOG).pools == ("ADA_24", "AMPERE_24")
    assert gpus_by_memory(48, CATALOG).pools == ("ADA_48_PRO",)
    assert gpus_by_memory(80, CATALOG).pools == ("ADA_80_PRO",)
    with pytest.raises(ConfigurationError, match="90 GB"):
        gpus_by_memory(90, CATALOG)


def test_memory_by_the_size_of_models() -> None:
    sizes = {6_900_000_000: 24, 16_000_000_000: 24, 23_800_000_000: 48, 40_900_000_000: 80}
    needs = {size: memory_for_models([size, 1]) for size in sizes}
    assert {size: need and need.gb for size, need in needs.items()} == sizes
    assert memory_for_models([]) is None


def test_what_volumes_cost() -> None:
    assert volume_per_month(100, "STANDARD") == pytest.approx(7)
    assert volume_per_month(2000, "STANDARD") == pytest.approx(120)
    assert volume_per_month(100, "HIGH_PERFORMANCE") is None


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("100@EU-RO-1", VolumeWanted(None, 100, "EU-RO-1")),
        ("100 GB@us-ks-2", VolumeWanted(None, 100, "US-KS-2")),
        ("200", VolumeWanted(None, 200)),
        ("agv6w2qcg7", VolumeWanted("agv6w2qcg7")),
    ],
)
def test_how_a_volume_is_written(text: str, volume: VolumeWanted) -> None:
    assert volume_wanted(text) == volume


@pytest.mark.parametrize("text", ["9@EU-RO-1", "5000", "100@", "BIG", "a b", "../x"])
def test_what_is_no_volume(text: str) -> None:
    with pytest.raises(ConfigurationError):
        volume_wanted(text)


def test_variables_and_references_to_secrets() -> None:
    env = environment_of(["A=b=c", "R2_BUCKET=models"], ["HF_TOKEN", "CIVITAI_TOKEN=civ"])
    assert env == {
        "A": "b=c",
        "R2_BUCKET": "models",
        "HF_TOKEN": "{{ RUNPOD_SECRET_HF_TOKEN }}",
        "CIVITAI_TOKEN": "{{ RUNPOD_SECRET_civ }}",
    }
    assert secret_names(env) == ["HF_TOKEN", "civ"]
    assert environment_of(["HF_TOKEN={{ RUNPOD_SECRET_x }}"], ()) == {
        "HF_TOKEN": "{{ RUNPOD_SECRET_x }}"
    }


@pytest.mark.parametrize(
    "text",
    [
        "HF_TOKEN=anything",
        "X=hf_" + "a" * 20,
        "X=rps_" + "a" * 20,
        "URL=https://ann:password@host/x",
        "X=planted-value-91ce",
    ],
)
def test_a_plain_value_that_looks_like_a_secret_is_refused_and_not_repeated(text: str) -> None:
    SECRETS.add("STUDIO", "planted-value-91ce")
    with pytest.raises(ConfigurationError, match="looks like a secret") as refused:
        environment_of([text], ())
    value = text.partition("=")[2]
    assert value not in f"{refused.value.message}{refused.value.advice}"


def test_a_secrets_value_in_place_of_its_name_is_refused() -> None:
    value = "hf_" + "a" * 20
    with pytest.raises(ConfigurationError) as refused:
        environment_of((), [f"HF_TOKEN={value}"])
    assert value not in f"{refused.value.message}{refused.value.advice}"


@pytest.mark.parametrize("text", ["=x", "1A=x", "A", "COMFY_REMOTE_DEPLOYMENT=x"])
def test_what_is_no_variable(text: str) -> None:
    with pytest.raises(ConfigurationError):
        environment_of([text], ())


def test_a_mark_is_read_again_and_no_other_text_is_one() -> None:
    assert Mark.parse(str(MARK)) == MARK
    assert Mark.of_volume(MARK.volume) == MARK
    assert Mark.of_volume(Mark("a-b-c", MARK.nonce).volume) == Mark("a-b-c", MARK.nonce)
    for text in ("", "portraits", "portraits/", "portraits/xyz", "../portraits/0123456789ab"):
        assert Mark.parse(text) is None
    assert Mark.of_volume("training-dataset") is None
    with pytest.raises(ConfigurationError):
        checked_name("two words")


def test_a_request_has_nothing_that_is_not_set() -> None:
    assert EndpointRequest(flashboot="OFF").body() == {"flashboot": "OFF"}


def test_a_private_image_is_loaded_with_a_login_of_the_account() -> None:
    logins = [RestRegistry(id="reg1", name="mine"), RestRegistry(id="reg2", name="work")]
    found = replace(there(), registries=logins)
    for called in ("work", "reg2"):
        wanted = Wanted("portraits", gpus=("L4",), image="ghcr.io/me/x:1", registry=called)
        plan = planned(wanted, found)
        assert sent(plan)["registry"] == "reg2"
        assert "loaded with the login work" in plan.steps[0].facts
    assert "registry" not in sent(planned(Wanted("portraits", gpus=("L4",)), found))
    now = replace(there([endpoint(registry="reg1")]), registries=logins)
    assert sent(planned(Wanted("portraits", registry="work"), now)) == {"registry": "reg2"}
    assert planned(Wanted("portraits", registry="mine"), now).changes == []
    other = planned(Wanted("portraits", image="ghcr.io/me/x:2"), now)
    assert sent(other) == {"image": "ghcr.io/me/x:2", "registry": "reg1"}


@pytest.mark.parametrize(
    ("logins", "words"),
    [
        (None, "does not show this account's logins"),
        ([], "has no login 'mine' for image registries. Make one in RunPod's console"),
        ([RestRegistry(id="r", name="other")], "has no login 'mine'.*It has other .r."),
        ([RestRegistry(id=one, name="mine") for one in ("a", "b")], "several logins 'mine'"),
    ],
)
def test_a_login_that_the_account_does_not_have(
    logins: list[RestRegistry] | None, words: str
) -> None:
    found = replace(there(), registries=logins)
    with pytest.raises(ConfigurationError) as raised:
        planned(Wanted("portraits", gpus=("L4",), registry="mine"), found)
    assert re.search(words, str(raised.value))

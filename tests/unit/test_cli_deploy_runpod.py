"""``comfy-remote deploy runpod`` in this process, against a double of RunPod's REST API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from record_sql import sql
from runpod_double import KEY, RunPodDouble
from test_cli_lock import Run, run

from comfy_remote.config.folders import home
from comfy_remote.config.own_file import OwnFile, own_path
from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.deploy.runpod import image
from comfy_remote.deploy.runpod.image import ImageFacts
from comfy_remote.deploy.runpod.record import DeploymentRecord
from comfy_remote.deploy.runpod.wanted import IMAGE
from comfy_remote.jobs.record import Record
from comfy_remote.ready.lock import Lock, LockedModel

__all__ = ["run"]

DEPLOY = ("deploy", "runpod", "--name", "portraits")
VOLUME = ("--gpu", "RTX 4090", "--volume", "100@EU-RO-1")


@pytest.fixture
def double(
    run: Run, monkeypatch: pytest.MonkeyPatch, quick_retries: None
) -> Iterator[RunPodDouble]:
    async def facts(named: str) -> ImageFacts:
        return (
            ImageFacts("not public") if "nobody" in named else ImageFacts("public", 5_100_000_000)
        )

    monkeypatch.setattr(image, "image_facts", facts)
    with RunPodDouble() as one:
        monkeypatch.setenv("RUNPOD_API_BASE_URL", one.url)
        monkeypatch.setenv("RUNPOD_API_KEY", KEY)
        monkeypatch.delenv("RUNPOD_ENDPOINT_BASE_URL", raising=False)
        yield one


def target(name: str = "portraits") -> TargetSettings | None:
    return Configuration.load().own_targets.get(name)


def test_the_plan_says_what_it_costs_and_changes_nothing(run: Run, double: RunPodDouble) -> None:
    status, out, err = run(*DEPLOY, *VOLUME, "--secret", "HF_TOKEN", "--plan")
    assert status == 0
    assert out.splitlines() == [
        "make     volume 100 GB in EU-RO-1",
        "           standard storage",
        "           $7.00 a month, used or not (list price of 2026-08-20)",
        "make     endpoint portraits",
        "           RTX 4090",
        f"           image {IMAGE}",
        "           at most 2 workers",
        "           idle workers wait 60 s",
        "           a job may take 60 min",
        "           FlashBoot on",
        "           in EU-RO-1",
        "           $1.10 an hour for each worker that runs, nothing while none does",
        "         the target portraits in your comfy-remote.toml",
    ]
    assert "https://console.runpod.io/user/secrets: HF_TOKEN." in err
    assert "It costs $7.00 a month, used or not; runs cost extra." in err
    assert double.changes == []
    assert not own_path().exists()


def test_a_yes_makes_it_and_a_target_of_it(run: Run, double: RunPodDouble) -> None:
    status, _, err = run(*DEPLOY, *VOLUME, "--yes")
    assert status == 0
    (endpoint,), (volume,) = double.endpoints, double.volumes
    assert target() == TargetSettings(f"runpod:{endpoint}", volume=f"{volume}@EU-RO-1")
    assert "Run it: comfy-remote run WORKFLOW --on portraits" in err
    changes = list(double.changes)
    status, _, err = run(*DEPLOY, *VOLUME, "--yes")
    assert (status, double.changes) == (0, changes)
    assert "There is nothing to do." in err


def test_nothing_is_done_without_a_yes(run: Run, double: RunPodDouble) -> None:
    status, out, err = run(*DEPLOY, *VOLUME)
    assert status == 2
    assert "make     endpoint portraits" in out
    assert "say --yes to have it done" in err
    assert double.changes == []


def test_what_the_target_says_besides_stays(run: Run, double: RunPodDouble) -> None:
    run(*DEPLOY, "--gpu", "L40S", "--yes")
    (endpoint,) = double.endpoints
    with OwnFile.changing() as own:
        own.put("portraits", TargetSettings(f"runpod:{endpoint}", keep_stored=True))
    run(*DEPLOY, "--volume", "20@US-KS-2", "--yes")
    (volume,) = double.volumes
    assert double.endpoints[endpoint]["networkVolumes"] == [volume]
    assert target() == TargetSettings(
        f"runpod:{endpoint}", keep_stored=True, volume=f"{volume}@US-KS-2"
    )


def test_a_target_of_that_name_that_is_something_else_stays(run: Run, double: RunPodDouble) -> None:
    with OwnFile.changing() as own:
        own.put("portraits", TargetSettings("http://192.168.1.20:8188"))
    _, _, err = run(*DEPLOY, "--gpu", "L40S", "--yes")
    (endpoint,) = double.endpoints
    assert target() == TargetSettings("http://192.168.1.20:8188")
    assert f"another target portraits, which stays. The endpoint is runpod:{endpoint}." in err
    assert f"--on runpod:{endpoint}" in err


def test_it_is_removed_again_the_volume_only_if_that_is_said(
    run: Run, double: RunPodDouble
) -> None:
    run(*DEPLOY, *VOLUME, "--yes")
    status, out, err = run(*DEPLOY, "--remove", "--yes")
    assert status == 0
    assert "remove   endpoint portraits" in out
    assert "as it is volume" in out
    assert "goes on costing money" in err
    assert (len(double.endpoints), len(double.volumes), target()) == (0, 1, None)
    status, out, _ = run(*DEPLOY, "--remove", "--with-volume", "--yes")
    assert (status, double.volumes) == (0, {})
    assert "everything on it is lost" in out
    status, _, err = run(*DEPLOY, "--remove", "--yes")
    assert status == 2
    assert "nothing that Comfy Remote made as 'portraits'" in err


def test_a_removal_that_stops_half_way_leaves_no_target(run: Run, double: RunPodDouble) -> None:
    run(*DEPLOY, *VOLUME, "--yes")
    (volume,) = double.volumes
    worker = {"id": "worker", "networkVolumes": [volume]}

    def busy(method: str, path: str) -> None:
        if (method, path) == ("DELETE", f"/v2/network-volumes/{volume}"):
            double.endpoints["worker"] = worker

    double.before = busy
    status, _, err = run(*DEPLOY, "--remove", "--with-volume", "--yes")
    assert status != 0
    assert f"The volume {volume} stays" in err
    assert "The target portraits is removed" in err
    assert target() is None
    double.before = lambda *_: None
    del double.endpoints["worker"]
    status, _, _ = run(*DEPLOY, "--remove", "--with-volume", "--yes")
    assert (status, double.volumes) == (0, {})
    assert DeploymentRecord(home()).made("portraits") is None


@pytest.mark.parametrize("whole", [False, True])
def test_a_removal_that_was_killed_leaves_a_target_that_the_next_one_removes(
    run: Run, double: RunPodDouble, whole: bool
) -> None:
    run(*DEPLOY, *VOLUME, "--yes")
    double.endpoints.clear()  # as it is when the process dies behind the request
    if whole:
        double.volumes.clear()
    status, out, err = run(*DEPLOY, "--remove", "--with-volume", "--yes")
    assert status == 0
    assert "remove   target portraits" in out
    assert "If it is in another one, use that account's key" in err
    assert (target(), double.volumes) == (None, {})
    assert DeploymentRecord(home()).made("portraits") is None


def test_the_answer_as_json(run: Run, double: RunPodDouble) -> None:
    status, out, _ = run(*DEPLOY, *VOLUME, "--plan", "--json")
    assert status == 0
    plan = json.loads(out)["plan"]
    assert plan["per_month"] == pytest.approx(7)
    assert [(one["does"], one["kind"]) for one in plan["steps"]] == [
        ("make", "volume"),
        ("make", "endpoint"),
    ]
    _, out, _ = run(*DEPLOY, *VOLUME, "--yes", "--json")
    result = json.loads(out)
    (endpoint,), (volume,) = double.endpoints, double.volumes
    assert (result["target"], result["endpoint"], result["volume"]) == (
        *("portraits", endpoint),
        volume,
    )


def test_what_jobs_have_seen_of_its_starts_is_told(run: Run, double: RunPodDouble) -> None:
    _, _, err = run(*DEPLOY, "--gpu", "L4", "--yes")
    assert "is known once a job has waited for one" in " ".join(err.split())
    with Record() as record:
        record.add("job", target="portraits", source="x", folder=None, prompt={})
        sql(record.path, "UPDATE jobs SET created = 100, started = 172, updated = 200")
    _, _, err = run(*DEPLOY, "--plan")
    assert "A worker of portraits took 72 s to start" in err
    _, out, _ = run(*DEPLOY, "--plan", "--json")
    assert json.loads(out)["starts"]["usual"] == 72.0


def test_a_workflow_names_it_and_chooses_its_gpu(
    run: Run, double: RunPodDouble, tmp_path: Path
) -> None:
    parts = {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": "flux1-dev.safetensors"}}}
    Path("Night shots.json").write_text(json.dumps(parts))
    status, out, err = run("deploy", "runpod", "Night shots.json", "--plan")
    assert status == 0
    assert "make     endpoint night-shots" in out
    assert "GPU: L40 or L40S, since it loads flux1-dev.safetensors." in err
    model = LockedModel(folder="diffusion_models", name="f.safetensors", size=6_900_000_000)
    Lock(models=(model,)).write(tmp_path / "x.lock")
    _, out, err = run(
        "deploy", "runpod", "Night shots.json", "--lock", "x.lock", "--plan", "--json"
    )
    assert "RTX 4090 or L4" in out  # sizes say more than names
    assert "diffusion_models/f.safetensors has 6.9 GB" in out


def test_a_secret_in_the_clear_is_refused_before_runpod_is_asked(
    run: Run, double: RunPodDouble
) -> None:
    value = "hf_" + "x" * 20
    status, out, err = run(*DEPLOY, *VOLUME, "--env", f"HF_TOKEN={value}", "--yes")
    assert status == 2
    assert "--secret HF_TOKEN" in err
    assert value not in out + err
    assert double.asked == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "RTX 9090"), "no GPU 'RTX 9090'"),
        (("--gpu", "RTX 4090", "--volume", "100"), "needs a data centre"),
        (("--gpu", "RTX 4090", "--cuda", "13"), "write it like 12.8"),
        (("--use", "steady", "--idle", "30"), "An idle time cannot be set"),
        (("--with-volume",), "goes with --remove"),
        (("--plan", "--yes"), "--plan changes nothing"),
    ],
)
def test_what_cannot_be_had_is_refused(
    run: Run, double: RunPodDouble, arguments: tuple[str, ...], words: str
) -> None:
    status, _, err = run(*DEPLOY, *arguments)
    assert status == 2
    assert words in " ".join(err.split())
    assert double.changes == []


def test_names_that_cannot_be_a_target(run: Run, double: RunPodDouble) -> None:
    for name in ("two words", "sandbox"):
        status, _, _ = run("deploy", "runpod", "--name", name, "--plan")
        assert status == 2
    status, _, err = run("deploy", "runpod", "--remove", "--yes")
    assert status == 2
    assert "--name" in err
    assert double.asked == []


def test_without_a_key(run: Run, double: RunPodDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY")
    status, _, err = run(*DEPLOY, "--plan")
    assert status == 2
    assert "RUNPOD_API_KEY is not set" in err


def test_an_image_that_runpod_cannot_load_is_a_warning(run: Run, double: RunPodDouble) -> None:
    _, _, err = run(*DEPLOY, "--gpu", "L40S", "--plan")
    assert "The image has 5.1 GB, which a new worker's host loads first." in err
    _, _, err = run(*DEPLOY, "--gpu", "L40S", "--image", "ghcr.io/nobody/none:1", "--plan")
    words = " ".join(err.split())
    assert "warning: ghcr.io/nobody/none:1 does not exist, or is not public." in words
    double.registries = [{"id": "reg1", "name": "mine"}]
    private = (*DEPLOY, "--gpu", "L4", "--image", "ghcr.io/nobody/none:1")
    status, out, err = run(*private, "--registry-login", "mine", "--yes")
    assert status == 0
    assert "loaded with the login mine" in out
    assert "ghcr.io/nobody/none:1 is not public: RunPod loads it with that login." in err
    (made,) = double.endpoints.values()
    assert made["registry"] == "reg1"

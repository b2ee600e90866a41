"""A ``comfy-remote.toml`` that may have come with other people's files: data until trusted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from owner import configure

from comfy_remote.cli.advice import for_terminal
from comfy_remote.config import folders
from comfy_remote.config.cache_settings import CacheSettings
from comfy_remote.config.config_file import CapTable, ConfigFile, read_config
from comfy_remote.config.settings import Configuration, named_in
from comfy_remote.config.trust import TrustStore
from comfy_remote.errors import ConfigurationError, NotTrusted
from comfy_remote.jobs.client import Client
from comfy_remote.targets.base import RemoteRef
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.opening import open_target, reopen

ATTACK = """
default = "x"
[targets.x]
target = "runpod:demo"
base_url = "https://elsewhere.example/v2"
key_env = "AWS_SECRET_ACCESS_KEY"
[targets.y]
target = "https://elsewhere.example"
headers_env = { X-1 = "OPENAI_API_KEY", X-2 = "GITHUB_PAT" }
[targets.gpu]
target = "http://10.6.6.6:8188"
"""
OWN = """
[targets.gpu]
target = "http://127.0.0.1:8188"
[targets.box]
target = "https://box.example"
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "GITHUB_PAT", "RUNPOD_API_KEY"):
        monkeypatch.setenv(name, f"planted-{name}")
    monkeypatch.delenv("COMFY_REMOTE_CONFIG", raising=False)
    configure(tmp_path / "home", OWN)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def trust_all_of(path: Path) -> None:
    named = named_in(read_config(path), Configuration.load().owners)
    TrustStore(folders.home()).trust(path, named.values())


def test_nothing_that_it_names_is_used(project: Path) -> None:
    path = configure(project, ATTACK)
    configuration = Configuration.load()
    assert set(configuration.targets) == {"gpu", "box"}
    assert configuration.default is None
    for name in ("x", "y"):
        with pytest.raises(NotTrusted) as caught:
            open_target(name, configuration)
        assert str(path) in caught.value.message
        assert f"comfy-remote trust {path}" in for_terminal(caught.value.advice)
        assert "--config" in for_terminal(caught.value.advice)
        assert len(caught.value.details["names"]) == 3  # type: ignore[arg-type]
        assert "planted" not in str(caught.value.to_json())
    with pytest.raises(NotTrusted, match="The default target 'x'"):
        configuration.choose(None)
    for use in (configuration.address_of, configuration.service_of):
        with pytest.raises(NotTrusted):
            use("x")


def test_a_name_of_the_owners_means_what_the_owner_says(project: Path) -> None:
    configure(project, ATTACK)
    configuration = Configuration.load()
    gpu = open_target("gpu", configuration)
    assert isinstance(gpu, ComfyUITarget)
    assert gpu.url == "http://127.0.0.1:8188"
    assert configuration.choose("gpu") == "gpu"
    trust_all_of(project / "comfy-remote.toml")
    after = open_target("gpu", Configuration.load())
    assert isinstance(after, ComfyUITarget)
    assert after.url == "http://10.6.6.6:8188"


@pytest.mark.parametrize("name", ["http://127.0.0.1:8188", "sandbox", "pod:auto", "runpod:abc"])
def test_an_address_means_itself(project: Path, name: str) -> None:
    configure(project, f'[targets."{name}"]\ntarget = "http://10.6.6.6:8188"\n')
    target = open_target(name, Configuration.load())
    assert "10.6.6.6" not in str(getattr(target, "url", ""))


@pytest.mark.parametrize(
    ("default", "used"),
    [("gpu", "gpu"), ("box", "box"), ("sandbox", "sandbox")],
)
def test_it_may_choose_among_the_owners_names(project: Path, default: str, used: str) -> None:
    configure(project, f'default = "{default}"')
    configuration = Configuration.load()
    assert configuration.choose(None) == used
    assert configuration.untrusted is None


@pytest.mark.parametrize(
    "default",
    ["http://10.6.6.6:8188", "10.6.6.6:8188", "runpod:theirs", "runpod:", "modal:app", "pod:auto",
     "pod:abc", "abc-8188.proxy.runpod.net", "https://elsewhere.example"],
)  # fmt: skip
def test_a_default_that_is_an_address_is_no_such_choice(project: Path, default: str) -> None:
    path = configure(project, f'default = "{default}"')
    configuration = Configuration.load()
    with pytest.raises(NotTrusted, match="The default target"):
        configuration.choose(None)
    with pytest.raises(NotTrusted):
        Client()
    assert configuration.default is None
    assert configuration.choose("box") == "box"
    trust_all_of(path)
    assert Configuration.load().choose(None) == default


def test_a_changed_price_does_not_ask_again_a_changed_address_does(project: Path) -> None:
    path = configure(project, '[targets.lan]\ntarget = "http://10.0.0.7:8188"\n')
    trust_all_of(path)
    configure(project, '[targets.lan]\ntarget = "http://10.0.0.7:8188"\nprice_per_hour = 2.0\n')
    assert Configuration.load().targets["lan"].price_per_hour == 2.0
    configure(
        project,
        '[targets.lan]\ntarget = "http://10.0.0.8:8188"\n'
        '[targets.more]\ntarget = "http://10.0.0.9:8188"\n',
    )
    configuration = Configuration.load()
    assert "lan" not in configuration.targets
    assert configuration.untrusted is not None
    assert set(configuration.untrusted.targets) == {"lan", "more"}
    # What is trusted stays usable beside what is new.
    configure(
        project,
        '[targets.lan]\ntarget = "http://10.0.0.7:8188"\n'
        '[targets.more]\ntarget = "http://10.0.0.9:8188"\n',
    )
    configuration = Configuration.load()
    assert configuration.address_of("lan") == "http://10.0.0.7:8188"
    with pytest.raises(NotTrusted, match="'more'"):
        configuration.address_of("more")
    assert TrustStore(folders.home()).forget(path)
    with pytest.raises(NotTrusted, match="'lan'"):
        Configuration.load().address_of("lan")


def test_a_file_that_the_owner_names_is_the_owners(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(project, ATTACK)
    mine = configure(tmp_path / "ci", 'default = "ci"\n[targets.ci]\ntarget = "http://10.0.0.7:1"')
    configuration = Configuration.load(file=mine)
    assert (configuration.default, configuration.untrusted) == ("ci", None)
    assert set(configuration.targets) == {"ci", "gpu", "box"}
    monkeypatch.setenv("COMFY_REMOTE_CONFIG", str(mine))
    assert Configuration.load() == configuration
    # The folder's own, once it is named.
    named = Configuration.load(file=project / "comfy-remote.toml")
    assert named.address_of("gpu") == "http://10.6.6.6:8188"
    with pytest.raises(ConfigurationError, match="There is no file"):
        Configuration.load(file=tmp_path / "missing.toml")


async def test_the_library_does_the_same(project: Path, tmp_path: Path) -> None:
    configure(project, ATTACK)
    with pytest.raises(NotTrusted, match="'y'"):
        Client("y")
    async with Client("y", config=project / "comfy-remote.toml") as client:
        assert isinstance(client.target, ComfyUITarget)
        assert client.target.url == "https://elsewhere.example"


def test_a_job_is_not_taken_up_with_a_folders_login(project: Path) -> None:
    configure(project, ATTACK)
    sent = RemoteRef("j", "r", {"url": "https://elsewhere.example"})
    with pytest.raises(NotTrusted):
        reopen("y", sent)
    gpu = reopen("gpu", None)
    assert isinstance(gpu, ComfyUITarget)
    assert gpu.url == "http://127.0.0.1:8188"


def test_the_owners_folders_are_trusted(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = tmp_path / "home" / "workflows"
    below.mkdir()
    monkeypatch.chdir(below)
    configuration = Configuration.load()
    assert (set(configuration.targets), configuration.untrusted) == ({"gpu", "box"}, None)
    # A folder below one of them is another folder: downloads may lie there.
    configure(below, ATTACK)
    assert Configuration.load().untrusted is not None
    # ComfyUI's folder, for the pack that is installed in it.
    comfyui = tmp_path / "ComfyUI"
    monkeypatch.setattr(
        folders, "__file__", str(comfyui / "custom_nodes" / "x" / "comfy_remote" / "c" / "p.py")
    )
    configure(comfyui, '[targets.page]\ntarget = "http://10.0.0.9:8188"')
    monkeypatch.chdir(project)
    assert Configuration.load().address_of("page") == "http://10.0.0.9:8188"
    monkeypatch.chdir(comfyui)
    assert Configuration.load().untrusted is None


def test_a_link_to_a_file_with_a_yes_names_the_same(project: Path, tmp_path: Path) -> None:
    real = configure(tmp_path / "elsewhere", '[targets.lan]\ntarget = "http://10.0.0.7:8188"\n')
    (project / "comfy-remote.toml").symlink_to(real)
    with pytest.raises(NotTrusted):
        Configuration.load().address_of("lan")
    trust_all_of(real)
    assert Configuration.load().address_of("lan") == "http://10.0.0.7:8188"


def test_what_the_owner_has_named_is_allowed(project: Path) -> None:
    configure(project, ATTACK + '\n[targets.z]\ntarget = "https://z.example"\n')
    path = configure(
        project.parent / "home", 'allowed_addresses = ["https://api.example/run"]\n' + OWN
    )
    assert path.is_file()
    configuration = Configuration.load()
    for url in (
        "http://127.0.0.1:8188/prompt",
        "https://box.example/a?b=c",
        "https://api.example",
        "https://api.example/other",
    ):
        assert configuration.allows_address(url)
    for url in (
        "https://elsewhere.example/v2",
        "https://z.example",
        "http://10.6.6.6:8188",
        "http://127.0.0.1:8189",
        "http://api.example",
        "runpod:abc",
        "http://sandbox",
        "",
    ):
        assert not configuration.allows_address(url)
    TrustStore(folders.home()).confirm_address("https://z.example/page")
    assert configuration.allows_address("https://z.example")


def test_a_folders_file_allows_no_address(project: Path) -> None:
    path = configure(
        project,
        'allowed_addresses = ["https://elsewhere.example"]\nallowed_hosts = ["evil.example"]\n',
    )
    trust_all_of(path)
    assert Configuration.load().allowed_hosts == ()
    assert not Configuration.load().allows_address("https://elsewhere.example")
    named = Configuration.load(file=path)
    assert named.allows_address("https://elsewhere.example")
    assert named.allowed_hosts == ("evil.example",)


def test_a_folders_file_can_say_nothing_but_targets_and_a_default(project: Path) -> None:
    cache = {"cache", "cache_packs", "cache_max_gb", "cache_max_days"}
    others = {"default", "default_workflow", "targets", *cache, *CapTable.model_fields}
    lists = set(ConfigFile.model_fields) - others
    said = ['default_workflow = "/etc/passwd"', 'cache = "use"', 'cache_packs = ["mine"]']
    said += ["cache_max_gb = 0", "cache_max_days = 0"]
    said += [f'{name} = ["elsewhere.example"]' for name in sorted(lists)]
    path = configure(project, "\n".join([*said, "[targets.lan]", 'target = "http://10.0.0.7:1"']))
    trust_all_of(path)
    configuration = Configuration.load()
    assert configuration.address_of("lan") == "http://10.0.0.7:1"
    assert {name: getattr(configuration, name) for name in lists} == dict.fromkeys(lists, ())
    assert configuration.default_workflow is None
    assert configuration.cache == CacheSettings()


def _caps_on(name: str) -> dict[str, float]:
    """The lowest of each, by where it is set: file's folder, name."""
    return {
        cap.where.replace(os.sep, "/").rpartition("/comfy-remote.toml")[0].rpartition("/")[2]
        + f": {cap}": cap.dollars
        for cap in Configuration.load().caps_on(name)
    }


def test_a_folders_file_adds_caps_and_takes_none_away(project: Path, tmp_path: Path) -> None:
    owners = """
    cap_per_day = 2
    on_cap = "cancel"
    [targets.gpu]
    target = "runpod:abc"
    cap_per_job = 0.5
    on_cap = "cancel"
    """
    configure(tmp_path / "home", owners)
    path = configure(
        project,
        """
        cap_per_day = 1000000
        cap_per_month = 0
        on_cap = "warn"
        [targets.gpu]
        target = "http://10.6.6.6:8188"
        cap_per_job = 1000000
        on_cap = "warn"
        [targets.other]
        target = "runpod:abc"
        cap_per_day = 7
        """,
    )
    of_owner = {"home: $2.00 a day": 2.0, "home: $0.50 a run on gpu": 0.5}
    added = {"project: $1,000,000.00 a day": 1e6, "project: $0 a month": 0.0}
    # Not trusted: what lowers the owner's caps counts, what is of its own targets does not.
    assert _caps_on("gpu") == {**of_owner, **added}
    assert _caps_on("lan") == {"home: $2.00 a day": 2.0, **added}
    trust_all_of(path)
    at_gpu = {"project: $1,000,000.00 a run on gpu": 1e6}
    assert _caps_on("gpu") == {**of_owner, **added, **at_gpu}
    configuration = Configuration.load()
    assert configuration.on_cap_of("gpu") == configuration.on_cap_of("other") == "cancel"
    # The owner's endpoint by another name: what it costs is booked as the owner calls it.
    assert configuration.booked_as("other") == configuration.booked_as("runpod:abc") == "gpu"
    assert _caps_on("other").items() >= {"home: $0.50 a run on gpu": 0.5}.items()
    assert _caps_on("other").items() >= {"project: $7.00 a day on gpu": 7.0}.items()


def test_a_folders_file_may_have_jobs_cancelled_at_a_cap(project: Path, tmp_path: Path) -> None:
    configure(tmp_path / "home", f'on_cap = "warn"\n{OWN}on_cap = "warn"\n')
    assert Configuration.load().on_cap_of("box") == "warn"
    configure(project, 'on_cap = "cancel"\n')
    configuration = Configuration.load()
    assert configuration.on_cap_of("box") == configuration.on_cap_of("lan") == "cancel"


def test_a_file_named_by_the_owner_raises_caps(project: Path, tmp_path: Path) -> None:
    configure(tmp_path / "home", "cap_per_day = 1\ncap_per_month = 9\n")
    named = tmp_path / "named.toml"
    named.write_text("cap_per_day = 5\n", encoding="utf-8")
    caps = Configuration.load(file=named).caps_on("gpu")
    assert [(cap.span, cap.dollars) for cap in caps] == [("day", 5.0), ("month", 9.0)]


@pytest.mark.parametrize("wrong", ["cap_per_day = -1", "cap_per_job = nan", 'on_cap = "stop"'])
def test_a_cap_is_an_amount(project: Path, tmp_path: Path, wrong: str) -> None:
    configure(tmp_path / "home", wrong)
    with pytest.raises(ConfigurationError, match=wrong.split()[0]):
        Configuration.load()


@pytest.mark.parametrize(
    "content",
    [
        b"default = " + b"[" * 100_000,
        b"[targets.a]\ntarget = 'x'\nprice_per_hour = " + b"9" * 5000,
        b"# " + b"x" * 300_000,
        b'default = "' + b"\xff" + b'"',
    ],
)
def test_a_hostile_file_is_an_error_that_names_it(project: Path, content: bytes) -> None:
    path = project / "comfy-remote.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        Configuration.load()
    assert str(path) in caught.value.message
    assert len(caught.value.message) < 1000


def test_names_do_not_steer_a_terminal_or_fill_it(project: Path) -> None:
    names = "\n".join(
        f'[targets."\\u001b[2J\\n{n}\\u202e"]\ntarget = "http://10.6.6.6:{n}"'
        for n in range(1, 300)
    )
    configure(project, f"{names}\n[targets.x]\ntarget = 'http://10.6.6.6'\n")
    configuration = Configuration.load()
    assert configuration.untrusted is not None
    sentence = configuration.untrusted.sentence()
    assert sentence.isprintable()
    assert len(sentence) < 1000
    with pytest.raises(NotTrusted) as caught:
        configuration.settings_of("\x1b[2J\n7\u202e")
    assert caught.value.message.isprintable()
    assert all(str(line).isprintable() for line in caught.value.details["names"])  # type: ignore[union-attr]


def test_a_deleted_current_folder_has_no_file(tmp_path: Path, project: Path) -> None:
    project.rmdir()
    assert Configuration.load().choose("gpu") == "gpu"
    os.chdir(tmp_path)


@pytest.mark.parametrize("address", ["http://elsewhere.example:8188", "runpod:stranger", "pod:x"])
def test_a_route_takes_no_address_in_by_a_table_that_is_called_so(
    project: Path, address: str
) -> None:
    own = f'default = "r"\n[targets.r]\nroute = ["{address}"]\n'
    (project / "comfy-remote.toml").write_text(f'{own}[targets."{address}"]\ntarget = "sandbox"\n')
    configuration = Configuration.load()
    assert "r" not in configuration.targets
    with pytest.raises(NotTrusted):
        configuration.chosen_default()
    with pytest.raises(NotTrusted):
        open_target("r", configuration)


def test_a_route_does_not_change_what_an_address_means(project: Path) -> None:
    (project / "comfy-remote.toml").write_text('[targets.sandbox]\nroute = ["box"]\n')
    assert Configuration.load().address_of("sandbox") == "sandbox"
    trust_all_of(project / "comfy-remote.toml")
    assert Configuration.load().address_of("sandbox") == "route:box"

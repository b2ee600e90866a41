"""The owner's comfy-remote.toml and keys, as commands and the page change them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import types
from pathlib import Path

import pytest

from comfy_remote.config.environment import load_env_files
from comfy_remote.config.one_writer import one_writer
from comfy_remote.config.own_file import OwnFile, own_path
from comfy_remote.config.settings import Configuration
from comfy_remote.config.stored_secrets import forget_secret, store_secret
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import ConfigurationError, LocalStorageError

GPU = TargetSettings("runpod:abc123xyz", price_per_hour=0.69)
BOX = TargetSettings(
    "runpod:workshop",
    base_url="https://box.local:8000/v2",
    key_env="BOX_TOKEN",
    policy={"priority": 5, "labels": ["big"]},
)
STUDIO = TargetSettings("https://comfy.example.org", headers_env={"X-Access": "ACCESS"})


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_what_is_put_is_what_is_read(own_home: Path) -> None:
    own = OwnFile()
    for name, settings in (("gpu", GPU), ("box", BOX), ("studio.lan", STUDIO)):
        own.put(name, settings)
    own.make_default("gpu")
    own.write()
    found = Configuration.load()
    assert (found.targets["gpu"], found.targets["box"]) == (GPU, BOX)
    assert found.targets["studio.lan"] == STUDIO
    assert found.default == "gpu" and found.owners == {"gpu", "box", "studio.lan"}
    assert own.path == own_home / "comfy-remote.toml"
    if os.name == "posix":
        assert stat.S_IMODE(own.path.stat().st_mode) == 0o600


def test_comments_order_and_the_rest_stay(own_home: Path) -> None:
    own_home.mkdir()
    path = own_home / "comfy-remote.toml"
    path.write_text(
        "# mine\n"
        'allowed_hosts = ["comfy.lan"]  # the studio\n'
        "\n"
        "[targets.old]\n"
        'target = "runpod:old1234"   # the cheap one\n'
        "price_per_hour = 0.2\n"
        "\n"
        "# the last one\n"
        "[targets.lan]\n"
        'target = "http://192.168.1.20:8188"\n'
    )
    before = path.read_text()
    own = OwnFile()
    own.write()
    assert path.read_text() == before
    own.make_default("lan")
    own.put("old", TargetSettings("runpod:new1234"))
    own.remove("lan")
    own.put("gpu", GPU)
    own.write()
    text = path.read_text()
    for kept in ("# mine", "# the studio", "[targets.old]", "# the cheap one"):
        assert kept in text, kept
    assert "price_per_hour = 0.2" not in text and "192.168.1.20" not in text
    found = Configuration.load()
    assert found.default is None, "it was removed with its target"
    assert found.targets == {"old": TargetSettings("runpod:new1234"), "gpu": GPU}
    assert found.allowed_hosts == ("comfy.lan",)


@pytest.mark.parametrize("name", ["", "a b", "-x", "ü", "a/b", "x" * 65, "a\nb", 'a"]\nb'])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a target"):
        OwnFile().put(name, GPU)


def test_what_the_file_may_not_say_is_not_written(own_home: Path) -> None:
    own = OwnFile()
    own.put("gpu", GPU)
    own.write()
    before = own.path.read_text()
    for wrong in (
        TargetSettings("runpod:x", price_per_hour=-1),
        TargetSettings("runpod:x", policy={"no": 1}),
    ):
        own = OwnFile()
        own.put("gpu", wrong)
        with pytest.raises(ConfigurationError):
            own.write()
        assert own.path.read_text() == before
    with pytest.raises(ConfigurationError, match="no target 'lan'"):
        OwnFile().remove("lan")
    own.path.write_text("[targets.gpu\n")
    with pytest.raises(ConfigurationError, match="is not valid TOML"):
        OwnFile()


def test_a_folders_file_is_never_the_one(own_home: Path, tmp_path: Path) -> None:
    (tmp_path / "comfy-remote.toml").write_text('[targets.theirs]\ntarget = "runpod:theirs1"\n')
    own = OwnFile()
    own.put("gpu", GPU)
    own.write()
    assert "gpu" not in (tmp_path / "comfy-remote.toml").read_text()
    assert own_path().parent == own_home


@pytest.mark.skipif(os.name != "posix", reason="makes a link")
def test_a_link_stays_one(own_home: Path, tmp_path: Path) -> None:
    own_home.mkdir()
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles" / "comfy-remote.toml"
    real.write_text("")
    (own_home / "comfy-remote.toml").symlink_to(real)
    own = OwnFile()
    own.put("gpu", GPU)
    own.write()
    assert (own_home / "comfy-remote.toml").is_symlink() and "[targets.gpu]" in real.read_text()


@pytest.mark.parametrize(
    "there",
    [
        'targets = {a = {target = "runpod:a"}}\n',
        '[targets.a.policy]\nttl = 5\n[targets.a]\ntarget = "runpod:a"\n',
    ],
)
def test_a_target_fits_into_every_form_that_a_file_may_have(own_home: Path, there: str) -> None:
    own_home.mkdir()
    path = own_home / "comfy-remote.toml"
    path.write_text(there)
    before = Configuration.load().targets
    own = OwnFile()
    own.put("box", BOX)
    own.put("free", TargetSettings("http://192.168.1.20:8188", price_per_hour=0.0))
    own.write()
    found = dict(Configuration.load().targets)
    assert found.pop("box") == BOX
    assert found.pop("free").price_per_hour == 0.0, "0 is a price"
    assert found == before


def test_nobody_undoes_what_another_changes_at_the_same_time(own_home: Path) -> None:
    code = (
        "import sys\n"
        "from comfy_remote.config.stored_secrets import store_secret\n"
        "from comfy_remote.config.own_file import OwnFile\n"
        "from comfy_remote.config.target_settings import TargetSettings\n"
        "for number in range(8):\n"
        "    name = f'{sys.argv[1]}{number}'\n"
        "    with OwnFile.changing() as own:\n"
        "        own.put(name, TargetSettings('runpod:abc123xyz'))\n"
        "    store_secret(f'KEY_{name}', 'value', ring=False)\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("a", "b", "c")]
    assert [one.wait(180) for one in started] == [0, 0, 0]
    wanted = {f"{name}{number}" for name in ("a", "b", "c") for number in range(8)}
    assert {*OwnFile().targets} == wanted
    lines = (own_home / ".env").read_text().splitlines()
    assert sorted(lines) == sorted(f"KEY_{name}='value'" for name in wanted)


def test_who_cannot_have_the_lock_changes_nothing(own_home: Path) -> None:
    with (
        one_writer(),
        pytest.raises(LocalStorageError, match="could not be locked"),
        one_writer(patience=0.01),
    ):
        raise AssertionError("both have it")


# ---- Keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["rpa_ABC123", "a'b\\c\"d$e #f=g", "  spaces around "])
def test_a_key_is_kept_in_a_file_of_the_owners_alone(own_home: Path, key: str) -> None:
    own_home.mkdir()
    path = own_home / ".env"
    path.write_text("# mine\nOTHER=1\nexport RUNPOD_API_KEY = old\n")
    assert store_secret("RUNPOD_API_KEY", key, ring=False) == str(path)
    environment = {"COMFY_REMOTE_HOME": str(own_home)}
    load_env_files(environment)
    assert environment["RUNPOD_API_KEY"] == key.strip()
    assert path.read_text().startswith("# mine\nOTHER=1\n") and "old" not in path.read_text()
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    forget_secret("RUNPOD_API_KEY")
    assert path.read_text() == "# mine\nOTHER=1\n"


def test_what_else_is_in_the_file_stays_as_it_is(own_home: Path) -> None:
    own_home.mkdir()
    path = own_home / ".env"
    others = b"# caf\xe9\nA=\"gr\xfc\xdfe \xe2\x80\xa8 there\"\nB='1\n2'\nhalf a line\n"
    path.write_bytes(others + b'OURS="first\nA=x\nlast"\nC=3')
    store_secret("OURS", "sekret1234", ring=False)
    assert path.read_bytes() == others + b"C=3\nOURS='sekret1234'\n"
    forget_secret("OURS")
    assert path.read_bytes() == others + b"C=3\n"


@pytest.mark.skipif(os.name != "posix", reason="makes a link")
def test_a_file_of_keys_that_is_a_link_stays_one(own_home: Path, tmp_path: Path) -> None:
    own_home.mkdir()
    (tmp_path / "keys").write_text("A=1\n")
    (own_home / ".env").symlink_to(tmp_path / "keys")
    store_secret("OURS", "sekret1234", ring=False)
    assert (own_home / ".env").is_symlink()
    assert (tmp_path / "keys").read_text() == "A=1\nOURS='sekret1234'\n"


@pytest.mark.parametrize("key", ["", "  ", "a\nb", "a\x00b", "x" * 9000])
def test_what_is_no_key_is_not_kept(own_home: Path, key: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a key") as refused:
        store_secret("RUNPOD_API_KEY", key, ring=False)
    assert key.strip() == "" or key not in str(refused.value)
    with pytest.raises(ConfigurationError, match="not the name of a variable"):
        store_secret("A=B\nC", "value", ring=False)
    assert not (own_home / ".env").exists()


class Ring(types.ModuleType):
    """A key ring of the system; one that is locked raises."""

    def __init__(self, *, locked: bool = False) -> None:
        super().__init__("keyring")
        self.errors = types.ModuleType("keyring.errors")
        self.errors.KeyringError = type("KeyringError", (Exception,), {})  # type: ignore[attr-defined]
        self.kept: dict[str, str] = {}
        self.locked = locked
        self.__spec__ = types.SimpleNamespace(name="keyring")  # type: ignore[assignment]

    def set_password(self, _service: str, name: str, value: str) -> None:
        if self.locked:
            raise self.errors.KeyringError  # type: ignore[attr-defined]
        self.kept[name] = value

    def delete_password(self, _service: str, name: str) -> None:
        if self.kept.pop(name, None) is None:
            raise self.errors.KeyringError  # type: ignore[attr-defined]


@pytest.mark.parametrize("locked", [False, True])
def test_the_key_ring_has_it_where_there_is_one(
    own_home: Path, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    ring = Ring(locked=locked)
    monkeypatch.setitem(sys.modules, "keyring", ring)
    monkeypatch.setitem(sys.modules, "keyring.errors", ring.errors)
    store_secret("RUNPOD_API_KEY", "first", ring=False)
    where = store_secret("RUNPOD_API_KEY", "second")
    assert where == (str(own_home / ".env") if locked else "the key ring")
    assert ring.kept == ({} if locked else {"RUNPOD_API_KEY": "second"})
    assert ("first" in (own_home / ".env").read_text()) is False
    assert ("second" in (own_home / ".env").read_text()) is locked
    forget_secret("RUNPOD_API_KEY")
    assert not ring.kept and "second" not in (own_home / ".env").read_text()


def test_caps_are_set_and_stay_when_a_target_is_changed(own_home: Path) -> None:
    with OwnFile.changing() as own:
        own.put("gpu", GPU)
        own.set_cap("day", 5.0)
        own.set_cap("month", 50.0)
        own.set_cap("job", 0.5, "gpu")
    with OwnFile.changing() as own:
        own.put("gpu", TargetSettings("runpod:other"))
        own.set_cap("month", None)
        with pytest.raises(ConfigurationError, match="no target 'lan'"):
            own.set_cap("job", 1.0, "lan")
    caps = Configuration.load().caps_on("gpu")
    assert [str(cap) for cap in caps] == ["$5.00 a day", "$0.50 a run on gpu"]

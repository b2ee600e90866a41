"""`comfy_remote.ready.lock`: the model of comfy-remote.lock and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from comfy_remote.errors import ConfigurationError, LocalStorageError
from comfy_remote.ready.lock import (
    Address,
    Lock,
    LockedComfyUI,
    LockedModel,
    LockedPack,
    read_lock,
    safe_name,
)

HASH = "a" * 64
LOCK = Lock(
    workflows=("b.json", "A.json"),
    comfyui=LockedComfyUI(version="0.33.0", commit="0123456789abcdef0123456789abcdef01234567"),
    packs=(
        LockedPack(classes=("Zed", "Alpha"), unknown="no pack is known that has them"),
        LockedPack(id="comfyui-kjnodes", version="1.1.2", folder="comfyui-kjnodes"),
        LockedPack(url="https://github.com/ltdrdata/ComfyUI-Impact-Pack.git", commit="ab" * 20),
    ),
    models=(
        LockedModel(
            folder="loras",
            name="mine/Ölbild.safetensors",
            size=12,
            sha256=HASH,
            addresses=(
                Address(by="workflow", url="https://huggingface.co/o/r/resolve/main/a.safetensors"),
                Address(by="bucket", url="r2:loras/mine/a.safetensors"),
            ),
        ),
        LockedModel(folder="checkpoints", name="sd.safetensors", unknown="the file is not here"),
    ),
)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "comfy-remote.lock"
    LOCK.write(path)
    assert read_lock(path) == LOCK.sorted()
    again = read_lock(path)
    again.write(path)
    assert read_lock(path) == LOCK.sorted()
    assert path.read_text("utf-8") == LOCK.to_toml()


def test_the_order_of_the_file_does_not_depend_on_how_things_were_found() -> None:
    other = LOCK.model_copy(
        update={
            "workflows": LOCK.workflows[::-1],
            "packs": LOCK.packs[::-1],
            "models": LOCK.models[::-1],
        }
    )
    assert other.to_toml() == LOCK.to_toml()
    assert LOCK.sorted().workflows == ("A.json", "b.json")
    assert [one.path for one in LOCK.sorted().models] == [
        "checkpoints/sd.safetensors",
        "loras/mine/Ölbild.safetensors",
    ]


def test_one_entry_is_a_block_of_lines() -> None:
    text = LOCK.to_toml()
    assert (
        """[[models]]
folder = "loras"
name = "mine/Ölbild.safetensors"
size = 12
"""
        in text
    )
    assert (
        '    {by = "workflow", url = "https://huggingface.co/o/r/resolve/main/a.safetensors"},\n'
        in text
    )


def test_an_empty_lock_is_a_lock() -> None:
    assert Lock.parse(Lock().to_toml(), "it") == Lock()


def test_what_is_not_known_is_listed() -> None:
    assert LOCK.sorted().unknown == [
        "the pack of Alpha, Zed: no pack is known that has them",
        "checkpoints/sd.safetensors: the file is not here",
    ]
    assert [one.name for one in LOCK.sorted().packs] == [
        "comfyui-kjnodes",
        "github.com/ltdrdata/ComfyUI-Impact-Pack",
        "the pack of Alpha, Zed",
    ]


def test_keys_of_a_later_comfy_remote_are_left_out() -> None:
    text = LOCK.to_toml() + '\n[extra]\nfuture = "yes"\n'
    assert Lock.parse(text, "it") == LOCK.sorted()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("version = 2\n", "a lock of version 2"),
        ("version = \n", "it is not TOML"),
        ("models = 3\n", "models"),
        ('[[models]]\nname = "../x.safetensors"\n', "it leads out of its folder"),
        ('[[models]]\nname = "/etc/x.safetensors"\n', "it leads out of its folder"),
        ('[[models]]\nname = "C:/x.safetensors"\n', "it is not a name with / between its parts"),
        ('[[models]]\nname = "a\\\\b.safetensors"\n', "it is not a name with / between its parts"),
        ('[[models]]\nname = "a"\nsha256 = "abc"\n', "sha256"),
        ('[[models]]\nname = "a"\nsize = -1\n', "size"),
        ('[[models]]\nfolder = ".comfy-remote"\nname = "a"\n', "it is not a folder for models"),
        ('[[models]]\nfolder = "custom_nodes"\nname = "a"\n', "it is not a folder for models"),
        ('[[models]]\nfolder = "vae/deeper"\nname = "a"\n', "it is not a folder for models"),
        ('[[packs]]\nfolder = "a/b"\n', "it has more than one part"),
        ('[[packs]]\nurl = "ext::sh -c touch% /tmp/x"\n', "not the address of a git repository"),
        ('[[packs]]\nurl = "--upload-pack=touch /tmp/x"\n', "not the address of a git repository"),
        ('[[packs]]\nurl = "file:///home/me/pack"\n', "not the address of a git repository"),
        ('[[models]]\nname = "a"\naddresses = [{by = "x", url = "file:/"}]\n', "not the address"),
    ],
)
def test_what_is_no_lock_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Lock.parse(text, "its.lock")
    assert why in str(raised.value)
    assert "its.lock" in str(raised.value)


def test_a_lock_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "huge.lock"
    path.write_text('version = 1\n# "' + "x" * 5_000_000)
    with pytest.raises(ConfigurationError, match="larger than any lock"):
        read_lock(path)
    many = "version = 1\nworkflows = [" + '"a",' * 5001 + "]"
    with pytest.raises(ConfigurationError, match="workflows"):
        Lock.parse(many, "it")


def test_a_lock_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="There is no lock"):
        read_lock(tmp_path / "none.lock")
    (tmp_path / "binary.lock").write_bytes(b"\xff\xfe\x00\x00\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        read_lock(tmp_path / "binary.lock")
    with pytest.raises(ConfigurationError, match="cannot be used as a lock"):
        read_lock(tmp_path)


def test_a_lock_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalStorageError):
        LOCK.write(tmp_path / "file" / "comfy-remote.lock")


def test_safe_names() -> None:
    assert safe_name("a/b c/ö.safetensors") == "a/b c/ö.safetensors"
    for name in ("a/../b", "", "/a", "a//b", "a/./b", "a\nb", "c:x"):
        with pytest.raises(ValueError, match="it "):
            safe_name(name)


def test_a_repository_by_ssh_is_an_address() -> None:
    assert LockedPack(url="git@github.com:owner/name.git").name == "github.com:owner/name"
    with pytest.raises(ValidationError):
        LockedPack(url="owner/name")


def test_an_address_that_was_written_by_hand_stays() -> None:
    def lock(*addresses: Address, sha256: str | None = HASH) -> Lock:
        return Lock(
            models=(LockedModel(folder="vae", name="a", sha256=sha256, addresses=addresses),)
        )

    mine, found = Address(by="me", url="https://nas/a"), Address(by="civitai", url="https://c/a")
    assert lock().keeping_from(lock(mine, found)) == lock(mine)
    assert lock(found).keeping_from(lock(mine, found)) == lock(found, mine)
    assert lock(sha256=None).keeping_from(lock(mine)) == lock(mine, sha256=None)
    # Of another file, and of another model, it does not.
    assert lock(sha256="b" * 64).keeping_from(lock(mine)) == lock(sha256="b" * 64)
    assert lock().keeping_from(Lock()) == lock()


def test_whose_nodes_are_is_kept_where_it_was_written_by_hand() -> None:
    unknown = LockedPack(classes=("A",), unknown="nobody knows")
    written = LockedPack(url="https://x.example/o/n", commit="ab" * 20, classes=("A", "B"))
    kept = Lock(packs=(unknown,)).keeping_from(Lock(packs=(written,)))
    assert kept.packs == (written.model_copy(update={"classes": ("A",)}),)
    more = LockedPack(classes=("B",), unknown="nobody knows")
    assert Lock(packs=(unknown, more)).keeping_from(Lock(packs=(written,))).packs == (written,)
    assert Lock(packs=(unknown,)).keeping_from(Lock(packs=(unknown,))).packs == (unknown,)
    # What is known now goes before what was written once.
    known = LockedPack(id="a", version="1.0.0", classes=("A",))
    assert Lock(packs=(known,)).keeping_from(Lock(packs=(written,))).packs == (known,)


@pytest.mark.parametrize(
    "text",
    [
        '[[models]]\nname = "a.pt"\naddresses = [{by = "x", url = "https://me:pw@a.example/a.pt"}]\n',
        '[[models]]\nname = "a.pt"\naddresses = [{by = "x", url = "https://tok@a.example/a.pt"}]\n',
        '[[packs]]\nurl = "https://me:pw@a.example/pack.git"\n',
        '[[packs]]\nurl = "ssh://me:pw@a.example/pack.git"\n',
        f'[[models]]\nname = "a.pt"\nsize = {"9" * 400}\n',
    ],
)
def test_a_login_in_an_address_and_a_size_that_no_file_has_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Lock.parse(f"version = 1\n{text}", "comfy-remote.lock")
    assert "pw" not in str(caught.value)

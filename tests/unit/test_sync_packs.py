"""Which exact code a lock names, and what is done about each of its node packs; all of it pure."""

from __future__ import annotations

import pytest

from comfy_remote.ready.lock import Lock, LockedComfyUI, LockedPack
from comfy_remote.ready.pins import Unpinned, parse_pin, pin_of, with_packs
from comfy_remote.ready.plan import There, compare
from comfy_remote.ready.sync.packs import ByHand, PackStep, pack_steps_of, update_commands
from comfy_remote.ready.sync.steps import SyncPlan, Way, Ways
from comfy_remote.wire.installed import InstalledPack

COMMIT, OTHER = "ab" * 20, "cd" * 20
URL = "https://github.com/o/Thing"
THING = LockedPack(id="thing", version="1.2.0", url=URL, commit=COMMIT, classes=("A",))
REGISTRY = LockedPack(id="thing", version="1.2.0", classes=("A",))


def steps(
    *packs: LockedPack,
    found: tuple[InstalledPack, ...] = (),
    ways: Ways = Ways(),  # noqa: B008 - frozen
    by_hand: ByHand = ByHand.COMFYUI,
    ours: frozenset[str] = frozenset(),
) -> list[PackStep]:
    plan = compare(Lock(packs=packs), There("gpu", packs=found))
    return pack_steps_of(plan, ways, by_hand=by_hand, ours=ours)


@pytest.mark.parametrize(
    ("pack", "pin"),
    [
        (THING, f"{URL}@{COMMIT}"),  # a checkout says an older version than it is
        (REGISTRY, "thing@1.2.0"),
        (LockedPack(id="thing", version="v1.2"), "thing@1.2"),
        (LockedPack(id="thing", commit=COMMIT), f"thing@{COMMIT}"),
        (LockedPack(id="thing", version="1.2.0", url=URL, commit=COMMIT[:9]), "thing@1.2.0"),
        (
            LockedPack(id="thing", version="1.0.0", url="git@github.com:o/n", commit=COMMIT),
            "thing@1.0.0",
        ),
    ],
)
def test_a_pack_is_pinned_by_its_commit_else_by_its_version(pack: LockedPack, pin: str) -> None:
    assert str(pin_of(pack)) == pin


def test_a_worker_without_git_gets_the_version_of_the_registry() -> None:
    assert str(pin_of(THING, by={"registry"})) == "thing@1.2.0"
    with pytest.raises(Unpinned, match="git is not there"):
        pin_of(LockedPack(url=URL, commit=COMMIT), by={"registry"})


@pytest.mark.parametrize(
    ("pack", "words"),
    [
        (LockedPack(classes=("A",)), "look for it at registry.comfy.org"),
        (LockedPack(folder="mine", content="1" * 64), "copy its folder, mine, to custom_nodes"),
        (LockedPack(id="thing"), r"see registry.comfy.org/nodes/thing"),
        (LockedPack(url=URL, version="1.2.0"), "the lock does not say its commit"),
        (LockedPack(url=URL, commit="abcdef1"), "write all 40 into the lock"),
        (LockedPack(url="git@github.com:o/n", commit=COMMIT), "takes a login that is only here"),
        (LockedPack(url="http://github.com/o/n", commit=COMMIT), "write its https address"),
    ],
)
def test_what_a_lock_does_not_pin_is_said_with_what_to_do(pack: LockedPack, words: str) -> None:
    (step,) = steps(pack)
    if step.way is Way.NONE:  # nobody can tell that it is not there
        with pytest.raises(Unpinned, match=words):
            pin_of(pack)
        return
    assert (step.way, step.wanted, step.commands) == (Way.IMPOSSIBLE, None, ())
    assert words in step.why


@pytest.mark.parametrize(
    "pack",
    [
        LockedPack(id="--upload-pack=sh", version="1.0.0"),
        LockedPack(id="thing; rm -rf ~", version="1.0.0"),
        LockedPack(id="thing", version="1.0.0; rm -rf ~"),
        LockedPack(id="thing", version="latest"),
        LockedPack(url="https://github.com/o/--upload-pack=sh", commit=COMMIT),
        LockedPack(url="https://github.com/o/$(id)", commit=COMMIT),
        LockedPack(url="https://github.com/o/'n", commit=COMMIT),
        LockedPack(url="https://github.com/o/n%0aRUN", commit=COMMIT),
        LockedPack(url="https://github.com/o/.git", commit=COMMIT),
    ],
)
def test_a_hostile_name_is_never_installed_nor_in_a_command(pack: LockedPack) -> None:
    for ways in (Ways(), Ways(install="no worker")):
        (step,) = steps(pack, ways=ways)
        assert step.way is Way.IMPOSSIBLE
        assert (step.wanted, step.commands) == (None, ())
        assert "cannot be installed" in step.why


@pytest.mark.parametrize(
    "url", ["ext::sh -c id", "--upload-pack=sh", "file:///etc", "/home/ann", "https://a:b@c/o/n"]
)
def test_a_lock_has_no_address_that_runs_something(url: str) -> None:
    with pytest.raises(ValueError, match="not the address of a git repository"):
        LockedPack(url=url)


def test_what_is_missing_is_installed_and_what_is_there_is_not() -> None:
    there = InstalledPack(name="other", registry_id="other", version="1.0.0")
    other = LockedPack(id="other", version="1.0.0")
    done, missing = steps(other, THING, found=(there,))
    assert (done.way, missing.way) == (Way.NONE, Way.INSTALL)
    assert missing.why == f"commit {COMMIT} of {URL}"
    assert missing.wanted is not None
    assert missing.wanted.classes == ("A",)
    assert missing.named == f"pack {URL}@{COMMIT}"
    assert steps(REGISTRY)[0].why == "thing@1.2.0 of the Comfy Registry"


def test_another_version_is_replaced_only_if_a_sync_has_installed_it() -> None:
    found = InstalledPack(name="Thing", url=URL, commit=OTHER)
    (step,) = steps(THING, found=(found,))
    assert step.way is Way.IMPOSSIBLE
    assert "it is not replaced" in step.why
    (step,) = steps(THING, found=(found,), ours=frozenset({"Thing"}))
    assert step.way is Way.INSTALL
    assert step.why.endswith("instead")


def test_where_no_worker_installs_it_the_commands_are_said() -> None:
    no = Ways(install="this is none")
    (step,) = steps(THING, ways=no)
    assert (step.way, step.why) == (Way.IMPOSSIBLE, "this is none")
    assert step.commands == (
        f"git clone {URL} custom_nodes/Thing",
        f"git -C custom_nodes/Thing checkout {COMMIT}",
        "python -m pip install -r custom_nodes/Thing/requirements.txt",
    )
    (step,) = steps(THING, ways=no, found=(InstalledPack(name="Thing", url=URL, commit=OTHER),))
    assert step.commands[0] == f"git -C custom_nodes/Thing fetch {URL} {COMMIT}"
    assert steps(REGISTRY, ways=no)[0].commands == ("comfy node install thing@1.2.0",)
    assert steps(THING, ways=no, by_hand=ByHand.MODAL)[0].commands == ()


def test_the_comfyui_of_a_lock_is_a_release_or_nothing_is_said() -> None:
    lock = Lock(comfyui=LockedComfyUI(version="0.33.0"))
    assert update_commands(compare(lock, There("gpu", comfyui="0.33.0"))) == ()
    assert update_commands(compare(lock, There("gpu", comfyui="0.3.64")))[1] == (
        "git checkout v0.33.0"
    )
    hostile = Lock(comfyui=LockedComfyUI(version="0.33.0; rm -rf ~"))
    assert update_commands(compare(hostile, There("gpu", comfyui="0.3.64"))) == ()


def test_two_packs_of_one_folder_and_more_than_a_request_has_room_for() -> None:
    first, second = steps(
        LockedPack(url=URL, commit=COMMIT),
        LockedPack(url="https://x.example/p/thing", commit=OTHER),
    )
    assert (first.way, second.way) == (Way.INSTALL, Way.IMPOSSIBLE)
    assert "gets the same folder" in second.why
    many = steps(*(LockedPack(id=f"p{n}", version="1.0.0") for n in range(5000)))
    assert sum(one.way is Way.INSTALL for one in many) == 200
    assert "200 packs are installed at the most" in many[-1].why


def test_the_plan_names_the_code_that_would_run() -> None:
    lock = Lock(packs=(THING, LockedPack(id="other")))
    plan = compare(lock, There("gpu", packs=()))
    made = SyncPlan(plan, (), packs=tuple(pack_steps_of(plan, Ways(), by_hand=ByHand.WORKER)))
    assert made.code == [f"pack {URL}@{COMMIT}"]
    assert [one.item.name for one in made.to_do] == ["thing"]
    assert [one.item.name for one in made.impossible] == ["other"]
    assert lock.named == [f"pack {URL}@{COMMIT}"]


def test_packs_that_are_given_go_before_the_locks_own() -> None:
    lock = Lock(packs=(THING, LockedPack(id="other", version="1.0.0")))
    made = with_packs(lock, [parse_pin("Thing@2.0.0"), parse_pin(f"https://x.example/o/n@{OTHER}")])
    assert {str(pin_of(one)): one.classes for one in made.packs} == {
        "Thing@2.0.0": ("A",),
        "other@1.0.0": (),
        f"https://x.example/o/n@{OTHER}": (),
    }


def test_of_several_packs_none_is_guessed_to_have_unknown_nodes() -> None:
    unknown = LockedPack(classes=("B",), unknown="nobody knows")
    lock = Lock(packs=(THING, unknown))
    made = with_packs(lock, [parse_pin("Thing@2.0.0"), parse_pin("new@1.0.0")])
    assert {str(pin_of(one)): one.classes for one in made.packs} == {
        "Thing@2.0.0": ("A",),
        "new@1.0.0": ("B",),
    }
    made = with_packs(lock, [parse_pin("new@1.0.0"), parse_pin("newer@1.0.0")])
    assert unknown in made.packs


@pytest.mark.parametrize("text", ["thing", "thing@main", f"{URL}@v1", "@1.0.0", "a b@1.0.0"])
def test_what_is_given_is_exact(text: str) -> None:
    with pytest.raises(ValueError):
        parse_pin(text)

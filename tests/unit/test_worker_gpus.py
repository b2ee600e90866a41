"""Which GPUs there are, which are wanted, and how a program sees one of them only."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from comfy_remote.errors import ConfigurationError
from comfy_remote.worker.gpus import Gpu, choose_gpus, find_gpus, parse_gpus

UUIDS = ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-1111-2222", "GPU-3333-4444")
SMI = f"""\
0, {UUIDS[0]}, NVIDIA GeForce RTX 4090, 24564
1, {UUIDS[1]}, NVIDIA GB10, [N/A]
2, {UUIDS[2]}, NVIDIA GeForce RTX 3060, 12288
"""
TORCH = """
class version:
    hip = {hip!r}
class _Device:
    name, total_memory = "AMD Radeon Pro W7900", 48 * 2**30
class cuda:
    is_available = staticmethod(lambda: {available})
    device_count = staticmethod(lambda: {count})
    get_device_properties = staticmethod(lambda number: _Device)
class backends:
    class mps:
        is_available = staticmethod(lambda: {mps})
"""


def smi(folder: Path, said: str, *, status: int = 0) -> dict[str, str]:
    """An environment whose nvidia-smi says that."""
    program = folder / "nvidia-smi"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "assert sys.argv[1:] == ['--query-gpu=index,uuid,name,memory.total', "
        "'--format=csv,noheader,nounits']\n"
        f"print({said!r}, end='')\nsys.exit({status})\n"
    )
    program.chmod(0o755)
    return {"PATH": str(folder)}


def torch(folder: Path, *, count: int, hip: str | None = None, mps: bool = False) -> dict[str, str]:
    """An environment without nvidia-smi, whose torch finds that."""
    source = TORCH.format(hip=hip, available=count > 0, count=count, mps=mps)
    (folder / "torch.py").write_text(source)
    return {"PATH": "", "PYTHONPATH": str(folder)}


async def test_nvidias_are_listed_by_nvidia_smi(tmp_path: Path) -> None:
    gpus = await find_gpus(None, smi(tmp_path, SMI))
    assert [str(gpu) for gpu in gpus] == [
        "gpu0 (NVIDIA GeForce RTX 4090, 24 GB)",
        "gpu1 (NVIDIA GB10)",
        "gpu2 (NVIDIA GeForce RTX 3060, 12 GB)",
    ]
    assert gpus[2].memory == 12288 * 2**20
    # Without the order, CUDA's number 2 may be another than that of nvidia-smi.
    assert gpus[2].environ == {"CUDA_VISIBLE_DEVICES": "2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


async def test_on_windows_nvidia_smi_is_started_by_its_full_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Windows would start one in the current folder.
    here, system = tmp_path / "here", tmp_path / "Windows" / "System32"
    here.mkdir()
    system.mkdir(parents=True)
    smi(here, "7, GPU-x, Somebody's program, 1\n")
    smi(system, SMI)
    (system / "nvidia-smi").rename(system / "nvidia-smi.exe")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "platform", "win32")
    environ = {"PATH": str(here), "SYSTEMROOT": str(tmp_path / "Windows")}
    assert [gpu.index for gpu in await find_gpus(None, environ)] == [0, 1, 2]
    older = tmp_path / "Program Files" / "NVIDIA Corporation" / "NVSMI"
    older.mkdir(parents=True)
    (system / "nvidia-smi.exe").rename(older / "nvidia-smi.exe")
    environ["PROGRAMFILES"] = str(tmp_path / "Program Files")
    assert [gpu.index for gpu in await find_gpus(None, environ)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("2,0", {2: "2", 0: "0"}),
        (f"{UUIDS[2]}, GPU-8932", {2: UUIDS[2], 0: "GPU-8932"}),
        # CUDA reads no further than to what it does not know.
        ("1,-1,0", {1: "1"}),
        ("", {}),
    ],
)
async def test_what_the_owner_has_hidden_is_not_there(
    tmp_path: Path, given: str, seen: dict[int, str]
) -> None:
    environ = smi(tmp_path, SMI) | {"CUDA_VISIBLE_DEVICES": given}
    gpus = await find_gpus(None, environ)
    # As the owner wrote it, in the owner's order: no number is translated.
    assert {gpu.index: gpu.environ for gpu in gpus} == {
        index: {"CUDA_VISIBLE_DEVICES": shown} for index, shown in seen.items()
    }


async def test_amds_are_listed_by_the_engines_torch(tmp_path: Path) -> None:
    environ = torch(tmp_path, count=2, hip="6.4")
    gpus = await find_gpus(sys.executable, environ)
    assert [str(gpu) for gpu in gpus] == [
        "gpu0 (AMD Radeon Pro W7900, 48 GB)",
        "gpu1 (AMD Radeon Pro W7900, 48 GB)",
    ]
    assert gpus[1].environ == {"CUDA_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "1"}
    hidden = await find_gpus(sys.executable, environ | {"HIP_VISIBLE_DEVICES": "5,3"})
    assert {gpu.index: gpu.environ["HIP_VISIBLE_DEVICES"] for gpu in hidden} == {5: "5", 3: "3"}
    # A program without a Python to ask knows of none.
    assert await find_gpus(None, environ) == []


async def test_torch_is_asked_where_nvidia_smi_fails(tmp_path: Path) -> None:
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    environ = torch(tmp_path, count=1) | smi(tmp_path, said, status=9)
    (gpu,) = await find_gpus(sys.executable, environ)
    assert gpu.environ == {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


async def test_what_nvidia_smi_lists_counts_whatever_else_it_complains_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = SMI + "WARNING: infoROM is corrupted at gpu 0000:01:00.0\n"
    gpus = await find_gpus(None, smi(tmp_path, said, status=14))
    assert [gpu.index for gpu in gpus] == [0, 1, 2]
    assert "infoROM is corrupted" in caplog.text


async def test_a_mac_has_one(tmp_path: Path) -> None:
    gpus = await find_gpus(sys.executable, torch(tmp_path, count=0, mps=True))
    assert gpus == [Gpu(0, "Apple's GPU")]


async def test_a_machine_without_any_has_none(tmp_path: Path) -> None:
    assert await find_gpus(sys.executable, torch(tmp_path, count=0)) == []
    assert await find_gpus(str(tmp_path / "no-python"), {"PATH": ""}) == []


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("all", None), (" ALL ", None), ("0", (0,)), ("2,0", (2, 0)), ("0, 12", (0, 12))],
)
def test_a_list_of_gpus(text: str, numbers: tuple[int, ...] | None) -> None:
    assert parse_gpus(text) == numbers


@pytest.mark.parametrize("text", ["", " ", "-1", "0,", "a", "0;1", "0,0", "1.5", "0x1", "all,0"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="GPU") as raised:
        parse_gpus(text)
    assert raised.value.advice


def test_those_that_are_wanted_in_that_order() -> None:
    there = [Gpu(0, "A"), Gpu(1, "B"), Gpu(2, "C")]
    assert choose_gpus(None, there) == there
    assert choose_gpus((2, 0), there) == [there[2], there[0]]
    missing = r"There is no GPU 3, 5 here, but gpu0 \(A\), gpu1 \(B\), gpu2 \(C\)\."
    with pytest.raises(ConfigurationError, match=missing):
        choose_gpus((3, 0, 5), there)
    with pytest.raises(ConfigurationError, match="No GPU was found"):
        choose_gpus(None, [])


async def test_who_is_asked_gets_no_secret(tmp_path: Path) -> None:
    environ = torch(tmp_path, count=1)
    environ |= {"COMFY_REMOTE_WORKER_TOKEN": "attic.secret", "OPENAI_API_KEY": "a-key"}
    seen = tmp_path / "seen"
    source = f"import os\nopen({str(seen)!r}, 'w').write(repr(dict(os.environ)))\n"
    (tmp_path / "torch.py").write_text(source + (tmp_path / "torch.py").read_text())
    assert len(await find_gpus(sys.executable, environ)) == 1
    assert "PYTHONPATH" in seen.read_text()
    assert "secret" not in seen.read_text()
    assert "a-key" not in seen.read_text()

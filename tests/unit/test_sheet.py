"""What a sheet is made of: the batch's files, read with care; thumbnails, page and picture."""

from __future__ import annotations

import io
import json
import re
import zlib
from pathlib import Path

import pytest
from PIL import Image
from sheet_kit import BatchFolder

from comfy_remote.batch.sheet import make_sheet
from comfy_remote.batch.sheet.html import page_policy
from comfy_remote.batch.sheet.keeps import Keeps, read_keeps, write_keeps
from comfy_remote.batch.sheet.reading import read_batch
from comfy_remote.errors import LocalStorageError

EVIL = "</script><script>alert(1)</script><img src=//evil.example/x onerror=alert(1)>"


@pytest.fixture
def batch(tmp_path: Path) -> BatchFolder:
    batch = BatchFolder(tmp_path / "cats")
    batch.run_all()
    return batch


def shown_data(folder: Path) -> dict[str, object]:
    """What the page shows."""
    page = (folder / "sheet.html").read_text("utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, object] = json.loads(found[1])
    return data


def thumbnails(folder: Path) -> dict[str, int]:
    """Each one's name, and when it was written."""
    return {one.name: one.stat().st_mtime_ns for one in (folder / "thumbnails").iterdir()}


# -- Reading ---------------------------------------------------------------------------------------


def test_a_batch_is_read(batch: BatchFolder) -> None:
    read = read_batch(batch.path)
    assert [axis.names for axis in read.axes] == [("KSampler.seed",), ("prompt",)]
    assert [axis.values for axis in read.axes] == [[(1,), (2,)], [("a cat",), ("a dog",)]]
    assert [run.row for run in read.runs] == [0, 1, 2, 3]
    assert read.places == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert read.product
    assert read.notes == []


def test_the_last_line_of_a_row_counts(batch: BatchFolder) -> None:
    batch.add(batch.line(2, state="failed", attempt=2))
    states = [(run.row, run.state, run.attempt) for run in read_batch(batch.path).runs]
    assert states[2] == (2, "failed", 2)
    assert len(states) == 4


def test_a_manifest_may_be_cut_off_at_any_byte(tmp_path: Path) -> None:
    batch = BatchFolder(tmp_path / "cats")
    batch.add(batch.line(0, values={"prompt": "été"}), batch.line(1))
    whole = batch.manifest.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(len(whole) + 1):
        batch.manifest.write_bytes(whole[:length])
        read = read_batch(batch.path)
        assert len(read.runs) == (length >= first) + (length == len(whole))
        assert read.notes == []


def test_what_is_no_line_is_counted(batch: BatchFolder) -> None:
    with batch.manifest.open("ab") as file:
        file.write(b'{"row": -1}\n[]\n\xff\xfe\n{"row": 1, "values": 7}\n\n')
        file.write(b"[" * 100_000 + b"\n")
    batch.add(batch.line(3, state="cancelled"))
    read = read_batch(batch.path)
    assert [run.state for run in read.runs] == ["succeeded"] * 3 + ["cancelled"]
    assert read.notes == ["6 lines of manifest.jsonl could not be read."]


@pytest.mark.parametrize("left", ["", "{", '{"count": "many"}'])
def test_without_a_description_the_runs_say_what_varies(batch: BatchFolder, left: str) -> None:
    (batch.path / "batch.json").write_text(left)
    read = read_batch(batch.path)
    assert [axis.names for axis in read.axes] == [("KSampler.seed",), ("prompt",)]
    assert read.count == 4
    assert not read.product
    assert read.notes == ["batch.json cannot be read: what varies is taken from manifest.jsonl."]


@pytest.mark.parametrize(
    "file",
    ["../secret.png", "/etc/passwd", "a/../../x.png", "C:/x.png", "a\\b.png", "a//b.png", "", "."],
)
def test_a_file_outside_of_the_folder_is_left_out(batch: BatchFolder, file: str) -> None:
    batch.add(batch.line(0, outputs=[{"file": file, "kind": "image"}]))
    read = read_batch(batch.path)
    assert read.runs[0].outputs == []
    assert read.notes == ["1 output left out: the name leads out of the folder."]


def test_a_folder_that_is_no_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalStorageError, match="not the folder of a batch"):
        make_sheet(tmp_path)


# -- Thumbnails ------------------------------------------------------------------------------------


def test_a_thumbnail_is_made_once(batch: BatchFolder) -> None:
    assert make_sheet(batch.path).thumbnails == 4
    first = thumbnails(batch.path)
    seed3 = batch.line(4, outputs=[batch.output("0004/new.png")])
    batch.add(seed3)
    assert make_sheet(batch.path).thumbnails == 1
    later = thumbnails(batch.path)
    assert len(later) == 5
    assert first.items() <= later.items()
    small = shown_data(batch.path)["runs"][4]["outputs"][0]  # type: ignore[index]
    assert (small["width"], small["height"]) == (60, 40)
    assert small["thumbnail"].startswith(f"thumbnails/{seed3['outputs'][0]['sha256'][:40]}-60x40")  # type: ignore[index]


def test_thumbnails_of_what_is_gone_are_removed(batch: BatchFolder) -> None:
    make_sheet(batch.path)
    stranger = batch.path / "thumbnails" / "mine.webp"
    stranger.write_bytes(b"x")
    batch.manifest.write_text(json.dumps(batch.line(0)) + "\n")
    make_sheet(batch.path)
    assert [*thumbnails(batch.path)] == ["mine.webp"]


def picture(mode: str, size: tuple[int, int], kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "size"),
    [
        (picture("RGBA", (900, 300)), "a.png", (900, 300)),
        (picture("P", (30, 500)), "p.png", (30, 500)),
        (picture("I;16", (400, 400)), "grey.png", (400, 400)),
        (picture("1", (400, 400)), "bits.png", (400, 400)),
        (picture("CMYK", (4000, 3000), "JPEG"), "c.jpg", (4000, 3000)),
        (picture("LA", (10, 10)), "la.png", (10, 10)),
    ],
)
def test_pictures_of_every_mode_get_a_thumbnail(
    tmp_path: Path, content: bytes, name: str, size: tuple[int, int]
) -> None:
    batch = BatchFolder(tmp_path / "one")
    batch.add(batch.line(0, outputs=[batch.output(name, content)]))
    assert make_sheet(batch.path).notes == []
    (made,) = (batch.path / "thumbnails").iterdir()
    assert made.name.endswith(f"-{size[0]}x{size[1]}.webp")
    with Image.open(made) as small:
        assert max(small.size) == min(320, max(size))


def test_a_picture_on_its_side_is_turned(tmp_path: Path) -> None:
    batch = BatchFolder(tmp_path / "one")
    exif = Image.Exif()
    exif[0x0112] = 6
    batch.add(
        batch.line(
            0, outputs=[batch.output("a.jpg", picture("RGB", (600, 300), "JPEG", exif=exif))]
        )
    )
    make_sheet(batch.path)
    (made,) = (batch.path / "thumbnails").iterdir()
    assert made.name.endswith("-300x600.webp")
    with Image.open(made) as small:
        assert small.size == (160, 320)


def claiming(png: bytes, edge: int) -> bytes:
    """A PNG that says it is larger than it is."""
    head = png[12:16] + edge.to_bytes(4, "big") * 2 + png[24:29]
    return png[:12] + head + zlib.crc32(head).to_bytes(4, "big") + png[33:]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_decoded_is_said(tmp_path: Path) -> None:
    batch = BatchFolder(tmp_path / "one")
    huge, bomb = (claiming(picture("1", (1, 1)), edge) for edge in (10_000, 60_000))
    whole = picture("RGB", (300, 300))
    batch.add(
        batch.line(
            0,
            outputs=[
                batch.output("bomb.png", bomb),
                batch.output("huge.png", huge),
                batch.output("cut.png", whole[: len(whole) // 2]),
                batch.output("page.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
                {**batch.output("gone.png", b"x"), "file": "was.png"},
            ],
        )
    )
    assert sorted(make_sheet(batch.path).notes) == [
        "bomb.png is too large for a thumbnail.",
        "cut.png cannot be decoded as a picture.",
        "huge.png is too large for a thumbnail: 10000 x 10000 pixels.",
        "page.png cannot be decoded as a picture.",
        "was.png is missing.",
    ]


def test_no_link_is_followed_out_of_the_folder(tmp_path: Path, batch: BatchFolder) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture("RGB", (50, 50)))
    link = batch.path / "0000" / "link.png"
    link.symlink_to(secret)
    batch.add(batch.line(0, outputs=[{"file": "0000/link.png", "kind": "image"}]))
    made = make_sheet(batch.path, embed=True)
    assert made.notes == ["0000/link.png: a link leads out of the batch's folder."]


def test_thumbnails_that_would_lead_out_of_the_folder_are_not_written(
    tmp_path: Path, batch: BatchFolder
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (batch.path / "thumbnails").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalStorageError, match="link that leads out"):
        make_sheet(batch.path)
    assert [*(tmp_path / "elsewhere").iterdir()] == []


# -- The page --------------------------------------------------------------------------------------


def test_what_strangers_wrote_is_data(tmp_path: Path) -> None:
    batch = BatchFolder(tmp_path / "evil", {"prompt": [EVIL, "{{script}}"]}, name=EVIL)
    error = {"code": EVIL, "message": f"{EVIL}\x1b[2J\u202e", "advice": EVIL}
    batch.add(batch.line(0, state="failed", run=EVIL, error=error, problems=[EVIL]))
    make_sheet(batch.path)
    page = (batch.path / "sheet.html").read_text("utf-8")
    assert "alert(1)</script>" not in page
    assert "<img src" not in page
    assert page.count("<script>") == 1
    assert "\x1b" not in page
    assert "\u202e" not in page
    run = shown_data(batch.path)["runs"][0]  # type: ignore[index]
    assert run["values"] == {"prompt": EVIL}
    assert run["error"]["code"] == EVIL


def test_numbers_beyond_all_bounds_are_shown_as_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "evil"
    folder.mkdir()
    many = {f"k{number}": 0 for number in range(2000)}
    lines = [
        '{"row": 0, "state": "succeeded", "seconds": 1e999, "values": {"cfg": 1e999}}',
        json.dumps({"row": 10**400, "state": "succeeded", "values": many}),
        json.dumps({"row": 2, "state": "succeeded", "values": dict.fromkeys(many, 1)}),
    ]
    (folder / "manifest.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (folder / "batch.json").write_text('{"count": 2, "prompt": {"1": {"inputs": {"a": -1e999}}}}')
    make_sheet(folder)
    first: dict[str, object] = shown_data(folder)["runs"][0]  # type: ignore[index]
    assert first["values"] == {"cfg": None}
    assert first["seconds"] is None


def test_the_page_allows_its_own_script_and_nothing_else(batch: BatchFolder) -> None:
    make_sheet(batch.path)
    page = (batch.path / "sheet.html").read_text("utf-8")
    policy = page_policy()
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"https?:", policy)
    assert f'content="{policy}"'.replace("'", "&#x27;") in page
    assert not re.search(r"\son[a-z]+=", page)
    assert (
        "import "
        not in re.findall(r"<script>.*?</script>", page, re.DOTALL)[0].split("*/", 1)[1][:200]
    )
    assert not re.search(r"^(import|export)\b", page, re.MULTILINE)


@pytest.mark.parametrize("file", ["a.svg", "a.html", "a.xml", "a.xhtml", "a", "a.js"])
def test_what_would_run_in_a_browser_is_not_opened(tmp_path: Path, file: str) -> None:
    batch = BatchFolder(tmp_path / "one")
    batch.add(batch.line(0, outputs=[batch.output(file, b"<svg/>", kind="file")]))
    make_sheet(batch.path)
    (output,) = shown_data(batch.path)["runs"][0]["outputs"]  # type: ignore[index]
    assert output["opens"] is False


def test_thumbnails_are_inside_up_to_a_limit(
    batch: BatchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sheet(batch.path)
    assert (batch.path / "sheet.html").read_text("utf-8").count("data-file=") == 4
    monkeypatch.setattr("comfy_remote.batch.sheet.html.EMBEDDED", 100)
    make_sheet(batch.path)
    assert "data-file=" not in (batch.path / "sheet.html").read_text("utf-8")


def test_everything_inside(batch: BatchFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = batch.output("0000/a.mp3", b"ID3" + b"\0" * 100, kind="audio")
    large = batch.output("0000/b.wav", b"RIFF" + b"\0" * 3000, kind="audio")
    batch.add(batch.line(0, outputs=[batch.output("0000/p.png"), sound, large]))
    monkeypatch.setattr("comfy_remote.batch.sheet.html.EMBEDDED", 100)
    monkeypatch.setattr("comfy_remote.batch.sheet.html._LARGEST_FILE", 2000)
    made = make_sheet(batch.path, embed=True)
    page = (batch.path / "sheet.html").read_text("utf-8")
    inside = re.findall(r'data-file="([^"]+)"', page)
    assert {"0000/p.png", "0000/a.mp3", "0001/px.png"} <= {*inside}
    assert "0000/b.wav" not in inside
    assert made.notes == ["1 file linked, not inside of sheet.html: too large."]


def test_nothing_is_written_where_nothing_has_changed(batch: BatchFolder) -> None:
    first = make_sheet(batch.path)
    assert first.png is not None
    times = [path.stat().st_mtime_ns for path in (first.html, first.png)]
    make_sheet(batch.path)
    assert [path.stat().st_mtime_ns for path in (first.html, first.png)] == times
    write_keeps(batch.path, Keeps(frozenset({1})))
    make_sheet(batch.path)
    assert all(
        path.stat().st_mtime_ns != before
        for path, before in zip((first.html, first.png), times, strict=True)
    )


def test_progress_is_told(batch: BatchFolder) -> None:
    told: list[tuple[int, int]] = []
    make_sheet(batch.path, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_texts_are_shown_from_their_beginning(tmp_path: Path) -> None:
    batch = BatchFolder(tmp_path / "one")
    long = batch.output("0000/a.txt", b"\xffa caption " * 1000, kind="text")
    batch.add(batch.line(0, outputs=[long], texts=[{"node": "12", "text": "shown"}]))
    make_sheet(batch.path)
    outputs = shown_data(batch.path)["runs"][0]["outputs"]  # type: ignore[index]
    assert outputs[0]["text"].startswith("\ufffda caption")
    assert len(outputs[0]["text"]) < 4100
    assert outputs[1] == {"file": "", "node": "12", "kind": "text", "text": "shown"}


# -- The picture -----------------------------------------------------------------------------------


def test_the_picture_has_a_cell_for_each_run(batch: BatchFolder) -> None:
    made = make_sheet(batch.path)
    assert made.png is not None
    with Image.open(made.png) as sheet:
        # Two columns of 256, their gap, labels and margins.
        assert sheet.width == max(640, 2 * 20 + 200 + 2 * (256 + 8))
        colours = {pixel for _, pixel in sheet.convert("RGB").getcolors(2**24) or []}
    assert len(colours) > 4


@pytest.mark.parametrize(("count", "left_out"), [(1, 0), (5, 0), (60, 0), (300, 170)])
def test_the_picture_stays_within_its_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, left_out: int
) -> None:
    monkeypatch.setattr("comfy_remote.batch.sheet.overview.LONGEST", 1000)
    monkeypatch.setattr("comfy_remote.batch.sheet.overview.MOST_PIXELS", 700_000)
    batch = BatchFolder(tmp_path / "many", {"seed": range(count)})
    batch.add(*(batch.line(row, state="failed") for row in range(count)))
    made = make_sheet(batch.path)
    assert made.png is not None
    with Image.open(made.png) as sheet:
        assert max(sheet.size) <= 1000
        assert sheet.width * sheet.height <= 700_000
    said = [f"sheet.png shows the first part; {left_out} runs are left out."]
    assert made.notes == (said if left_out else [])


def test_the_picture_has_the_axes_that_leave_out_the_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_remote.batch.sheet.overview.LONGEST", 4000)
    axes = {"prompt": range(3), "cfg": range(2), "seed": range(50)}
    batch = BatchFolder(tmp_path / "tall", axes)
    batch.add(*(batch.line(row, state="failed") for row in range(300)))
    # The page has 150 lines of two; beside each other, fifty seeds fit.
    assert make_sheet(batch.path).notes == []


def test_labels_of_every_script_and_length_are_drawn(tmp_path: Path) -> None:
    values = ["夜の灯台、雨", "a " + "very " * 300 + "long prompt", "x" * 900, "😀\n\u202e", ""]
    axes = {"pro\nmpt": values, "Sampler.\u202eseed": [1, 2]}
    batch = BatchFolder(tmp_path / "texts", axes, name="a\nb\0", workflow="é\n")
    error = {"code": "x\ny", "message": ""}
    batch.add(*(batch.line(row, state="st\nate", error=error) for row in range(10)))
    made = make_sheet(batch.path)
    assert made.png is not None
    assert made.png.is_file()


# -- Keeps -----------------------------------------------------------------------------------------


def test_keeps_are_written_and_read(tmp_path: Path) -> None:
    assert read_keeps(tmp_path) == Keeps()
    write_keeps(tmp_path, Keeps(frozenset({7, 0}), frozenset({3})))
    assert json.loads((tmp_path / "keeps.json").read_text()) == {
        "version": 1,
        "keep": [0, 7],
        "reject": [3],
    }
    assert read_keeps(tmp_path) == Keeps(frozenset({0, 7}), frozenset({3}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version": 2}',
        '{"version": 1, "keep": [true]}',
        '{"version": 1, "keep": 3}',
        '{"version": 1, "keep": [1], "reject": [1]}',
        '{"version": 1, "keep": [-1]}',
    ],
)
def test_what_are_no_keeps_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "keeps.json").write_text(text)
    assert read_keeps(tmp_path) == Keeps()

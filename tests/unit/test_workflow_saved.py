"""Workflows in what ComfyUI saved. ``tests/data/saved`` has real files of two ComfyUIs."""

from __future__ import annotations

import io
import json
import struct
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from comfy_remote.errors import WorkflowInvalid
from comfy_remote.workflow.load import LoadedWorkflow, load_workflow, read_workflow

SAVED = sorted((Path(__file__).parents[1] / "data/saved").iterdir())
KINDS = {
    ".png": "PNG picture",
    ".apng": "PNG picture",
    ".webp": "WebP picture",
    ".webm": "WebM or Matroska video",
    ".mp4": "MP4 video",
    ".flac": "FLAC audio",
    ".mp3": "MP3 audio",
    ".opus": "Ogg audio",
    ".glb": "GLB model",
}
PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8}}}
WORKFLOW = {"nodes": [{"id": 1, "type": "EmptyImage"}], "links": [], "version": 0.4}
TEXTS = {"prompt": json.dumps(PROMPT), "workflow": json.dumps(WORKFLOW)}


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, data in [(b"IHDR", b"\0" * 13), *chunks, (b"IEND", b"")]:
        whole += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind))
    return whole


def picture(form: str, exif: dict[int, object] | None = None, **options: object) -> bytes:
    image = Image.new("RGB", (4, 4))
    fields = image.getexif()
    fields.update(exif or {})
    file = io.BytesIO()
    image.save(file, form, exif=fields, **options)
    return file.getvalue()


def box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I4s", len(data) + 8, kind) + data


def id3(major: int, *frames: bytes, flags: int = 0) -> bytes:
    body = b"".join(frames)
    size = len(body)
    length = bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])
    return b"ID3" + bytes([major, 0, flags]) + length + body


def txxx(content: bytes, flags: bytes = b"\0\0") -> bytes:
    """A frame shorter than 128 bytes: its size is written alike in both versions."""
    assert len(content) < 128
    return b"TXXX" + struct.pack(">I", len(content)) + flags + content


def read(data: bytes, name: str = "the file") -> LoadedWorkflow:
    return read_workflow(io.BytesIO(data), name)


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.name)
def test_what_comfyui_saved_has_its_prompt_and_workflow(path: Path) -> None:
    loaded = load_workflow(path)
    assert loaded.found == KINDS[path.suffix]
    assert loaded.prompt is not None
    assert loaded.prompt["9"]["class_type"].startswith("Save")
    assert loaded.workflow is not None
    assert loaded.workflow["nodes"] == [
        {"id": 1, "type": "Note", "title": "Übung 猫", "widgets_values": ["it's {here}"]}
    ]
    assert "with the prompt that made it, and its workflow" in loaded.describe()


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.name)
def test_a_file_may_end_anywhere(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        try:
            loaded = read(whole[:length])
        except WorkflowInvalid as error:
            assert error.message.startswith("the file")
        else:
            assert loaded.prompt or loaded.workflow


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.name)
@settings(max_examples=60, deadline=2000)
@given(data=st.data())
def test_a_file_may_be_garbled_anywhere(path: Path, data: st.DataObject) -> None:
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(whole) - 1))
        # Sizes and ids stand in the first bytes and around the texts; the rest is pixels.
        whole[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        loaded = read(bytes(whole))
    except WorkflowInvalid as error:
        assert "the file" in error.message
    else:
        assert loaded.prompt or loaded.workflow


@settings(max_examples=300, deadline=2000)
@example(b"\x1a\x45\xdf\xa3" + b"\xff" * 60)
@example(b"OggS" + b"\0" * 22 + b"\xff" + b"\xff" * 300)
@given(
    st.sampled_from([path.read_bytes()[:12] for path in SAVED] + [b"\xff\xd8\xff", b""]).flatmap(
        lambda start: st.binary(max_size=400).map(lambda rest: start + rest)
    )
)
def test_any_bytes_are_a_workflow_or_a_clear_no(data: bytes) -> None:
    try:
        read(data)
    except WorkflowInvalid as error:
        assert "the file" in error.message


@pytest.mark.parametrize(
    "filler", [b"\0", b"\xff", b"\0\0\0\x08free", b"[", b'"', b'{"a":', b"${A}"]
)
@pytest.mark.parametrize("start", [*dict.fromkeys(p.read_bytes()[:40] for p in SAVED), b""])
def test_five_megabytes_of_anything_are_soon_read(start: bytes, filler: bytes) -> None:
    data = start + filler * (5_000_000 // len(filler))
    began = time.process_time()  # others may be at work
    with pytest.raises(WorkflowInvalid):
        read_workflow(io.BytesIO(data), "the file", variables={"A": "1"})
    assert time.process_time() - began < 2


def test_only_the_parts_with_texts_are_read(tmp_path: Path) -> None:
    """A long video: its pictures are skipped, wherever the texts are."""
    texts = [box(b"data", b"\0\0\0\1\0\0\0\0", text.encode()) for text in TEXTS.values()]
    keys = [box(b"mdta", name.encode()) for name in TEXTS]
    items = [box(struct.pack(">I", i + 1), text) for i, text in enumerate(texts)]
    meta = box(
        b"meta",
        b"\0\0\0\0",
        box(b"hdlr", b"\0" * 25),
        box(b"keys", struct.pack(">II", 0, 2), *keys),
        box(b"ilst", *items),
    )
    path = tmp_path / "long.mp4"
    with path.open("wb") as file:
        file.write(box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"mdat", 2**33))
        file.seek(2**33 - 16, io.SEEK_CUR)
        file.write(box(b"moov", box(b"udta", meta)))
    loaded = load_workflow(path)
    assert (loaded.prompt, loaded.workflow) == (PROMPT, WORKFLOW)


def test_every_kind_of_text_chunk_of_a_png() -> None:
    prompt, workflow = (text.encode() for text in TEXTS.values())
    plain = png((b"tEXt", b"prompt\0" + prompt), (b"tEXt", b"workflow\0" + workflow))
    packed = png(
        (b"zTXt", b"prompt\0\0" + zlib.compress(prompt)),
        (b"iTXt", b"workflow\0\1\0de\0Ablauf\0" + zlib.compress(workflow)),
    )
    unpacked = png((b"iTXt", b"prompt\0\0\0\0\0" + prompt), (b"comf", b"workflow\0" + workflow))
    for data in (plain, packed, unpacked):
        loaded = read(data)
        assert (loaded.prompt, loaded.workflow) == (PROMPT, WORKFLOW)


def test_a_text_that_unpacks_to_too_much_is_refused() -> None:
    bomb = zlib.compress(b"{" * 100_000_000)
    with pytest.raises(WorkflowInvalid, match="more than 16777216 bytes"):
        read(png((b"zTXt", b"prompt\0\0" + bomb)))


@pytest.mark.parametrize("form", ["WEBP", "JPEG"])
@pytest.mark.parametrize("names", [("prompt", "workflow"), ("Prompt", "Workflow")])
def test_exif_of_pictures(form: str, names: tuple[str, str]) -> None:
    fields = {0x0110: f"{names[0]}:{TEXTS['prompt']}", 0x010F: f"{names[1]}: {TEXTS['workflow']}"}
    loaded = read(picture(form, fields))
    assert (loaded.prompt, loaded.workflow) == (PROMPT, WORKFLOW)


def test_both_texts_in_one_comment() -> None:
    """As VideoHelperSuite writes them."""
    together = json.dumps({"prompt": TEXTS["prompt"], "workflow": WORKFLOW})
    item = box("©cmt".encode("latin-1"), box(b"data", b"\0" * 8, together.encode()))
    meta = box(b"meta", b"\0" * 4, box(b"hdlr", b"\0" * 25), box(b"ilst", item))
    loaded = read(box(b"ftyp", b"mp42") + box(b"moov", box(b"udta", meta)))
    assert (loaded.prompt, loaded.workflow) == (PROMPT, WORKFLOW)


@pytest.mark.parametrize(
    "data",
    [
        id3(3, txxx(b"\0prompt\0" + TEXTS["prompt"].encode())),
        id3(4, txxx(b"\3prompt\0" + TEXTS["prompt"].encode())),
        id3(4, b"TPE1\0\0\0\2\0\0\3x", txxx(b"\3prompt\0" + TEXTS["prompt"].encode())),
        id3(
            3, txxx(b"\0prompt\0" + TEXTS["prompt"].encode()).replace(b"\xff", b"\xff\0"), flags=128
        ),
    ],
)
def test_id3_versions(data: bytes) -> None:
    loaded = read(data)
    assert (loaded.prompt, loaded.workflow) == (PROMPT, None)
    assert loaded.describe() == "the file is an MP3 audio with the prompt that made it."


def test_id3_with_wide_characters() -> None:
    text = b"\1" + "prompt".encode("utf-16") + b"\0\0" + '{"1":{"class_type":"É"}}'.encode("utf-16")
    assert read(id3(3, txxx(text))).prompt == {"1": {"class_type": "É", "inputs": {}}}


def test_a_prompt_goes_before_a_workflow_and_one_is_enough() -> None:
    only = read(png((b"tEXt", b"workflow\0" + TEXTS["workflow"].encode())))
    assert (only.prompt, only.workflow) == (None, WORKFLOW)
    assert only.describe().endswith("with its workflow, but not the prompt that ran.")


def test_not_a_number_in_what_comfyui_notes_for_itself() -> None:
    prompt = '{"1": {"class_type": "A", "inputs": {}, "is_changed": [NaN]}}'
    workflow = '{"nodes": [], "extra": NaN}'
    loaded = read(
        png((b"tEXt", b"prompt\0" + prompt.encode()), (b"tEXt", b"workflow\0" + workflow.encode()))
    )
    assert loaded.prompt == {"1": {"class_type": "A", "inputs": {}}}
    assert loaded.workflow == {"nodes": [], "extra": None}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\x7fELF\xff", "is not a text file"),
        (b"[1]", "a list, not an object"),
        (picture("PNG"), r"PNG picture\) has no workflow in it"),
        (picture("JPEG"), r"JPEG picture\) has no workflow in it"),
        (picture("WEBP"), r"WebP picture\) has no workflow in it"),
        (picture("GIF"), r"GIF picture\) has no workflow in it"),
        (b"\xff\xfb\x90\x00" + b"\0" * 100, r"MP3 audio\) has no workflow in it"),
        (png((b"tEXt", b"parameters\0a cat\nSteps: 20")), "AUTOMATIC1111"),
        (png((b"tEXt", b"prompt\0a cat")), "not one of ComfyUI's"),
        (png((b"tEXt", b"prompt\0[1]")), "not one of ComfyUI's"),
        (png((b"tEXt", b'prompt\0{"1": 3}')), "'1' is not a node"),
        (png((b"zTXt", b"prompt\0\0rubbish")), "a compressed text in it is damaged"),
        (png()[:20], "ends too early"),
        (b"glTF\2\0\0\0\0\0\0\0\1\0\0\0JSON{", "not valid JSON"),
        (b"glTF\1\0\0\0" + b"\0" * 20, "not a glTF 2.0 model"),
    ],
)
def test_anything_else_is_refused_with_its_reason(data: bytes, message: str) -> None:
    with pytest.raises(WorkflowInvalid, match=message):
        read(data)


def test_an_a1111_jpeg_is_known_by_its_comment() -> None:
    image = Image.new("RGB", (4, 4))
    exif = image.getexif()
    comment = b"UNICODE\0" + "a cat\nSteps: 20, Sampler: Euler".encode("utf-16-be")
    exif.get_ifd(0x8769)[0x9286] = comment
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    with pytest.raises(WorkflowInvalid, match="AUTOMATIC1111"):
        read(file.getvalue())


def test_a_picture_that_pillow_saved(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", TEXTS["prompt"], zip=True)
    info.add_itxt("workflow", TEXTS["workflow"], zip=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png", pnginfo=info)
    loaded = load_workflow(tmp_path / "x.png")
    assert (loaded.prompt, loaded.workflow) == (PROMPT, WORKFLOW)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe:
        buffer = io.BytesIO(SAVED[0].read_bytes())

    monkeypatch.setattr("sys.stdin", Pipe)
    loaded = load_workflow("-")
    assert loaded.source == "standard input"
    assert loaded.prompt is not None


def test_ui_format_and_what_is_posted_to_comfyui() -> None:
    loaded = read(json.dumps(WORKFLOW).encode())
    assert (loaded.prompt, loaded.workflow) == (None, WORKFLOW)
    assert loaded.describe() == "the file is a workflow in UI format."
    posted = {"prompt": PROMPT, "extra_data": {"extra_pnginfo": {"workflow": WORKFLOW}}}
    loaded = read(json.dumps(posted).encode())
    assert (loaded.prompt, loaded.workflow) == (PROMPT, WORKFLOW)


def text_chunk(name: str, text: str) -> tuple[bytes, bytes]:
    return b"tEXt", name.encode() + b"\0" + text.encode()


def texts_in(data: bytes) -> dict[str, object]:
    found = read(data, "it")
    return {"prompt": found.prompt, "workflow": found.workflow}


def test_chunks_behind_a_pictures_end_are_read_as_the_page_reads_them() -> None:
    picture_end = png()
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + b"\0\0\0\0"
        for kind, data in [text_chunk(name, text) for name, text in TEXTS.items()]
    )
    assert texts_in(picture_end + body) == {"prompt": PROMPT, "workflow": WORKFLOW}
    assert texts_in(png(text_chunk("prompt", TEXTS["prompt"])) + b"\xff" * 40)["prompt"] == PROMPT
    cut = png(text_chunk("prompt", TEXTS["prompt"])) + b"\0\0\xff\0tEXtworkflow\0{"
    assert texts_in(cut) == {"prompt": PROMPT, "workflow": None}


def avif(exif: bytes) -> bytes:
    """Boxes only: what a reader of metadata looks at."""
    info = box(b"infe", b"\2\0\0\0", struct.pack(">HH4s", 7, 0, b"Exif"), b"\0")
    other = box(b"infe", b"\2\0\0\0", struct.pack(">HH4s", 1, 0, b"av01"), b"\0")
    data = struct.pack(">I", 0) + exif
    start = box(b"ftyp", b"avif\0\0\0\0avif")

    def whole(offset: int) -> bytes:
        items = struct.pack(">HHHII", 1, 0, 1, offset, 4) + struct.pack(
            ">HHHII", 7, 0, 1, offset, len(data)
        )
        location = box(b"iloc", b"\0\0\0\0\x44\0", struct.pack(">H", 2), items)
        meta = box(b"meta", b"\0\0\0\0", box(b"iinf", b"\0\0\0\0\0\2", other, info), location)
        return start + meta + struct.pack(">I4s", len(data) + 8, b"mdat") + data

    return whole(len(whole(0)) - len(data))


def test_an_avif_picture_is_read() -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = f"workflow:{TEXTS['workflow']}", f"prompt:{TEXTS['prompt']}"
    assert texts_in(avif(exif.tobytes().removeprefix(b"Exif\0\0"))) == {
        "prompt": PROMPT,
        "workflow": WORKFLOW,
    }


def test_a_cut_avif_picture_says_so() -> None:
    with pytest.raises(WorkflowInvalid, match="ends too early"):
        texts_in(avif(b"MM\0*\0\0\0\x08\0\0")[:60])


@pytest.mark.parametrize("begins", ["<svg>", '<?xml version="1.0"?><svg>'])
def test_a_drawing_is_read(begins: str) -> None:
    both = json.dumps({"prompt": PROMPT, "workflow": WORKFLOW})
    drawing = f"{begins}<metadata>\n<![CDATA[\n{both}\n]]></metadata><path/></svg>".encode()
    assert texts_in(drawing) == {"prompt": PROMPT, "workflow": WORKFLOW}
    with pytest.raises(WorkflowInvalid, match=r"SVG picture.*has no workflow"):
        texts_in(f"{begins}<path/></svg>".encode())


def test_a_latent_is_read() -> None:
    header = json.dumps({"__metadata__": TEXTS, "latent_tensor": {}}).encode()
    latent = struct.pack("<Q", len(header)) + header + b"\0" * 64
    assert texts_in(latent) == {"prompt": PROMPT, "workflow": WORKFLOW}
    with pytest.raises(WorkflowInvalid, match="safetensors"):
        texts_in(struct.pack("<Q", 1 << 24) + b"{}")

"""What varies as it is typed, and in files: read as meant, or refused with where and why."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
from batch_kit import PROMPT, WITH_FILES, rows_of
from hypothesis import example, given
from hypothesis import strategies as st

from comfy_remote.batch.plan import Plan, Rows, Variation, Vary, plan_of
from comfy_remote.errors import (
    ComfyRemoteError,
    ConfigurationError,
    InputFileMissing,
    WorkflowInvalid,
)
from comfy_remote.types import JsonValue
from comfy_remote.workflow.change.prepare import Changes, prepare
from comfy_remote.workflow.files import FileSearch, file_uses
from comfy_remote.workflow.load import parse_workflow
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.schema import Schemas


def planned(
    folder: Path,
    *vary: str,
    rows: Rows | None = None,
    prompt: Prompt = WITH_FILES,
    named: tuple[Path, ...] = (),
    mapped: Vary | None = None,
) -> Plan:
    variation = Variation(vary=mapped if mapped is not None else vary, rows=rows)
    return plan_of(variation, prompt, folder=folder, given=named, random=random.Random(3))


def refusal(folder: Path, *vary: str, rows: Path | None = None) -> str:
    with pytest.raises(ComfyRemoteError) as caught:
        planned(folder, *vary, rows=rows)
    return str(caught.value)


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_a_file_has_a_text_a_line(tmp_path: Path, encoding: str) -> None:
    lines = ["# of cats", "a cat, on a mat", "", "  ein Kätzchen ", "'# no comment'"]
    text = "\r\n".join([*lines, '"say ""hi"""', 'it\'s "x"', ""])
    write(tmp_path, "prompts.txt", text.encode(encoding))
    assert [row["prompt"] for row in rows_of(planned(tmp_path, "prompt=@prompts.txt"))] == [
        "a cat, on a mat",
        "ein Kätzchen",
        "# no comment",
        'say "hi"',
        'it\'s "x"',
    ]


def test_numbers_in_a_file_get_the_type_of_the_input(tmp_path: Path) -> None:
    write(tmp_path, "seeds.txt", "7\n8\n")
    assert rows_of(planned(tmp_path, "KSampler.seed=@seeds.txt")) == [
        {"KSampler.seed": 7},
        {"KSampler.seed": 8},
    ]
    write(tmp_path, "seeds.txt", "7\neight\n")
    said = refusal(tmp_path, "KSampler.seed=@seeds.txt")
    assert "seeds.txt, line 2: 'eight' does not fit input seed" in said


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_names_its_inputs(tmp_path: Path, separator: str) -> None:
    lines = [["KSampler.seed", " prompt ", "KSampler.cfg"], ["7", '"a cat, or; a\tdog"', "5.5"]]
    lines += [[" 8 ", "two", " "], ["", "", ""], ["9", '"with ""quotes"""', "6"]]
    text = "\r\n".join(separator.join(line) for line in lines)
    path = write(tmp_path, "runs.csv", "\ufeff" + text)
    rows: list[dict[str, JsonValue]] = [
        {"KSampler.seed": 7, "prompt": "a cat, or; a\tdog", "KSampler.cfg": 5.5},
        {"KSampler.seed": 8, "prompt": "two"},
        {"KSampler.seed": 9, "prompt": 'with "quotes"', "KSampler.cfg": 6},
    ]
    assert rows_of(planned(tmp_path, rows=path)) == rows
    assert rows_of(planned(tmp_path, "@runs.csv")) == rows
    column = rows_of(planned(tmp_path, "prompt=@runs.csv"))
    assert [row["prompt"] for row in column] == [row["prompt"] for row in rows]
    crossed = planned(tmp_path, "KSampler.steps=10,20", rows=path)
    assert crossed.count == 6
    assert crossed.axes[0].names == ("KSampler.seed", "prompt", "KSampler.cfg")


def test_a_cell_may_have_several_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "runs.csv", 'prompt,seed\r\n"a\r\nb",1\r\nc,x\r\n')
    assert "runs.csv, line 4: 'x' is not a seed" in refusal(tmp_path, rows=path)
    path.write_text('prompt,seed\n"a\nb",1\n')
    assert rows_of(planned(tmp_path, rows=path)) == [{"prompt": "a\nb", "seed": 1}]


def test_json_lines_have_values_with_types(tmp_path: Path) -> None:
    text = '{"KSampler.seed": 7, "prompt": "a, b"}\n\n{"KSampler.cfg": 4.5, "KSampler.seed": "8"}\n'
    path = write(tmp_path, "runs.jsonl", text)
    assert rows_of(planned(tmp_path, rows=path)) == [
        {"KSampler.seed": 7, "prompt": "a, b"},
        {"KSampler.seed": 8, "KSampler.cfg": 4.5},
    ]
    write(tmp_path, "cfg.jsonl", '5\n{"KSampler.cfg": 6.5}\n')
    assert [r["KSampler.cfg"] for r in rows_of(planned(tmp_path, "KSampler.cfg=@cfg.jsonl"))] == [
        5,
        6.5,
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("r.csv", "prompt,seed\na\n", "r.csv, line 2: 1 cell, and the header has 2"),
        ("r.csv", "prompt,seed\na, b,1\n", "r.csv, line 2: 3 cells"),
        ("r.csv", "prompt,prompt\na,b\n", "'prompt' is there twice"),
        ("r.csv", "prompt,\na,b\n", "column 2 has no name"),
        ("r.csv", "Prompt\na\n", "r.csv, line 1: 'Prompt' is not the name of an input. Did you"),
        ("r.csv", "KSampler.sede\n1\n", "r.csv, line 1: Node 5 (KSampler) has no input 'sede'"),
        ("r.csv", "prompt\n", "there are no values in it"),
        ("r.csv", 'prompt\n"a" b\n', "r.csv, line 2"),
        ("r.jsonl", '{"seed": 1}\n{"seed"\n', "r.jsonl, line 2: it is not JSON"),
        ("r.jsonl", '{"seed": -1}\n', "r.jsonl, line 1: -1 does not fit seed"),
        ("r.jsonl", '{"seed": NaN}\n', "r.jsonl, line 1: it is not JSON"),
        ("r.jsonl", '{"KSampler.cfg": 1e999}\n', "r.jsonl, line 1: inf is no number"),
        ("r.jsonl", "{}\n{}\n", "r.jsonl: no row names anything"),
        ("r.jsonl", "[1]\n", "r.jsonl, line 1: it is not an object"),
        ("r.jsonl", '{"prompt": "\\ud83d"}\n', "r.jsonl, line 1: half a character"),
        ("r.json", "[]", "neither .csv nor .jsonl"),
        ("r.csv", b"\x89PNG\r\n\x1a\n\xff\xfe\0", "not UTF-8 text"),
        ("r.csv", "seed\n" + "1" * 1_100_000, "r.csv, line 2: it has more than 1,048,576"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_why(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    assert said in refusal(tmp_path, rows=write(tmp_path, name, content))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("KSampler.seed", "not of the form NAME=VALUES"),
        ("KSampler.sede=1..3", "Did you mean 'seed'?"),
        ("Seed=1..3", "'Seed' is not the name of an input. Did you mean 'seed'?"),
        ("KSampler.cfg=1..", "'1..' is not a range"),
        ("KSampler.cfg=1-8", "'1-8' is not a range. Ranges are 1..8"),
        ("seed=1:8:2", "'1:8:2' is not a range"),
        ("KSampler.cfg=0.1..0.9", "0.1..0.9 needs a step"),
        ("KSampler.cfg=1..2/0", "the step 0 is not above 0"),
        ("KSampler.cfg=1,,2", "there is no value between two commas"),
        ("KSampler.cfg=", "there is no value after ="),
        ("KSampler.cfg=random*3", "random draws seeds"),
        ("KSampler.steps=1..4/0.5", "1.5 does not fit KSampler.steps, which takes a whole number"),
        ("KSampler.steps=20,20.5", "20.5 does not fit KSampler.steps"),
        ("seed=random*0", "random*0 is not from 1 to 2147483648"),
        ("seed=1..18446744073709551616", "does not fit seed"),
        ("width=0..512/64", "0 does not fit width"),
        ("prompt=a cat, sleeping", "it is split at each comma, and after 'a cat'"),
        ("prompt='tis the season", "the quote before 'tis the season' is not closed"),
        ('prompt="a" b', "a comma is missing"),
        ("prompt=@nowhere.txt", "There is no file"),
        ("A.image=*.gif", "no file matches '*.gif'"),
        ("A.image=sub", "is a folder"),
    ],
)
def test_what_cannot_be_read_names_what_was_typed(tmp_path: Path, typed: str, said: str) -> None:
    (tmp_path / "sub").mkdir()
    found = refusal(tmp_path, typed)
    assert said in found
    assert "@" in typed or found.startswith(f"vary {typed!r}: ")


@given(
    texts=st.lists(st.text().map(lambda text: text.replace("\0", "")), min_size=1, max_size=5),
    quote=st.sampled_from(["'", '"']),
    space=st.sampled_from(["", " "]),
)
def test_any_texts_can_be_quoted(texts: list[str], quote: str, space: str) -> None:
    quoted = (f"{quote}{text.replace(quote, quote * 2)}{quote}" for text in texts)
    plan = planned(Path(), f"prompt={f'{space},{space}'.join(quoted)}")
    assert [row["prompt"] for row in rows_of(plan)] == texts


@given(text=st.text(max_size=40))
@example("=")
@example("..")
@example("~0")
@example("~\0*")
@example("@\0")
@example("1..9e99/1e-99")
@example("'" * 7)
@example("a" * 5000)
@example("[" * 500)
def test_whatever_is_typed_is_read_or_refused(text: str) -> None:
    for name in ("KSampler.cfg", "seed", "prompt", "LoadImage.image", "KSampler.sampler_name"):
        with suppress(ComfyRemoteError):
            plan = planned(Path("/nowhere"), f"{name}={text}")
            plan.changes(plan.count - 1)


def test_nothing_varies_twice(tmp_path: Path) -> None:
    assert "seed varies twice" in refusal(tmp_path, "seed=1..2", "seed=3,4")
    path = write(tmp_path, "runs.csv", "prompt\na\n")
    assert "prompt varies twice" in refusal(tmp_path, "prompt=a,b", rows=path)
    said = refusal(tmp_path, "seed=1..2", "KSampler.seed=1..2")
    assert "seed and KSampler.seed set the same input, 5.seed" in said
    assert "the same input, 5.seed" in refusal(tmp_path, "5.seed=1..2", "KSampler.seed=1..2")


def test_files_are_found_by_a_pattern_in_natural_order(tmp_path: Path) -> None:
    for name in ("p/10.png", "p/2.png", "p/.hidden.png", "p/a.txt", "p/B1.png", "p/b0.png"):
        write(tmp_path, name, name)
    plan = planned(tmp_path, "LoadImage.image=p/*.png")
    names = ["p/2.png", "p/10.png", "p/b0.png", "p/B1.png"]
    assert [row["LoadImage.image"] for row in rows_of(plan)] == names
    assert [plan.files(n) for n in range(4)] == [[tmp_path / name] for name in names]
    assert list(plan.all_files()) == [tmp_path / name for name in names]
    assert rows_of(planned(tmp_path, "input=p/*.png"))[0] == {"input": "p/2.png"}


def test_a_row_finds_its_own_file_among_those_of_the_same_name(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        write(tmp_path, name, name)
    two: Prompt = {
        **WITH_FILES,
        "12": {"class_type": "LoadImage", "inputs": {"image": "other.png"}},
    }
    plan = planned(
        tmp_path, f"A.image={tmp_path}/a/1.png", f"12.image={tmp_path / 'b' / '1.png'}", prompt=two
    )
    changed = prepare(parse_workflow(two, "p"), plan.changes(0)).prompt
    search = FileSearch(tuple(plan.files(0)))
    assert [search.find(use.name) for use in file_uses(changed)] == [
        tmp_path / "a/1.png",
        tmp_path / "b/1.png",
    ]
    assert str(tmp_path) not in str(changed)


def test_what_a_table_names_is_taken_from_below_its_folder_only(tmp_path: Path) -> None:
    outside = write(tmp_path, "outside.png", "x")
    write(tmp_path, "mine/in/anna.png", "x")
    write(tmp_path, "mine/.hidden/key.png", "x")
    here = tmp_path / "elsewhere"
    here.mkdir()
    table = write(tmp_path, "mine/runs.csv", "LoadImage.image\nin/anna.png\non_target.png\n")
    plan = planned(here, rows=table)
    assert [plan.files(n) for n in range(2)] == [[tmp_path / "mine/in/anna.png"], []]
    assert plan.row(1) == {"LoadImage.image": "on_target.png"}
    for name, why in (
        ("../outside.png", "which is not below the folder"),
        (str(outside), "which is not below the folder"),
        ("\\\\host\\share\\a.png", "which is not below the folder"),
        (".hidden/key.png", "which is a hidden file"),
    ):
        table.write_text(f"LoadImage.image\n{name}\n")
        with pytest.raises(InputFileMissing, match=r"runs\.csv, line 2: .*" + why):
            planned(here, rows=table)
        listed = write(tmp_path, "mine/list.txt", name)
        with pytest.raises(InputFileMissing, match=r"list\.txt, line 1: .*" + why):
            planned(here, f"LoadImage.image=@{listed}")
    table.write_text("LoadImage.image\n../outside.png\n")
    assert planned(here, rows=table, named=(outside,)).files(0) == [outside]


def test_names_are_found_where_a_workflow_finds_them(tmp_path: Path) -> None:
    for name in ("w/a.png", "w/input/b.png", "c.png", "given/d.png"):
        write(tmp_path, name, "x")
    plan = plan_of(
        Variation(vary=["LoadImage.image=a.png,b.png,c.png,d.png,e.png,a.png [output]"]),
        WITH_FILES,
        folder=tmp_path,
        given=[tmp_path / "given/d.png"],
        beside=tmp_path / "w",
    )
    assert list(plan.all_files()) == [
        tmp_path / name for name in ("w/a.png", "w/input/b.png", "c.png", "given/d.png")
    ]
    assert [row["LoadImage.image"] for row in rows_of(plan)][2:] == [
        *("c.png", "d.png", "e.png", "a.png [output]")
    ]


def test_a_program_gives_values_and_rows(tmp_path: Path) -> None:
    plan = planned(
        tmp_path, mapped={"KSampler.seed": range(1, 3), "prompt": ["a, b"], "KSampler.cfg": "5..6"}
    )
    assert plan.count == 4
    write(tmp_path, "p.png", "x")
    files = planned(tmp_path, mapped={"LoadImage.image": [tmp_path / "p.png", "p.png"]})
    assert [files.files(n) for n in range(2)] == [[tmp_path / "p.png"]] * 2
    with pytest.raises(WorkflowInvalid, match=r"vary seed: -1 does not fit seed"):
        planned(tmp_path, mapped={"seed": range(3, -2, -1)})
    assert planned(tmp_path, mapped={"seed": range(10**12)}).row(5) == {"seed": 5}
    rows: list[dict[str, JsonValue]] = [{"prompt": "a, b", "seed": 3}, {"prompt": "c"}]
    assert rows_of(planned(tmp_path, rows=rows)) == rows
    with pytest.raises(ConfigurationError, match=r"seed varies, and KSampler\.seed is set"):
        plan_of(
            Variation(vary="seed=1..2"),
            PROMPT,
            folder=tmp_path,
            base=Changes(settings=["KSampler.seed=3"]),
        )


def test_nothing_looks_at_the_users_files_again(tmp_path: Path) -> None:
    table = write(tmp_path, "runs.csv", "prompt,seed\na,1\nb,2\n")
    plan = planned(tmp_path, rows=table)
    plan.save(tmp_path / "batch")
    before = rows_of(plan)
    table.unlink()
    assert rows_of(Plan.load(tmp_path / "batch")) == before == rows_of(plan)


def test_schemas_of_the_target_give_values_their_types(tmp_path: Path) -> None:
    info: dict[str, JsonValue] = {
        "Pack": {
            "input": {"required": {"mode": [["1", "2"], {}], "on": ["BOOLEAN", {}]}},
            "output": [],
        }
    }
    prompt: Prompt = {"1": {"class_type": "Pack", "inputs": {"mode": "1", "on": True}}}
    plan = plan_of(
        Variation(vary=["Pack.mode=1,2", "Pack.on=true,false"]),
        prompt,
        folder=tmp_path,
        schemas=Schemas(info, "there"),
    )
    assert plan.row(3) == {"Pack.mode": "2", "Pack.on": False}

"""Tables as they come: delimiters, encodings, damage, and the words for it."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mtlrun.data.table import Table
from mtlrun.data.table.columns import numbers_of
from mtlrun.data.table.reading import read_sheet
from mtlrun.errors import UserError

ROWS = [("name", "x", "y"), *((f"n{n % 3}", f"{n}.25", f"{n % 7}.5") for n in range(30))]


def written(tmp_path: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(path: Path | str, tasks=("y",), **own) -> str:
    with pytest.raises(UserError) as caught:
        Table(str(path), tasks=dict.fromkeys(tasks), **own)
    return str(caught.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiter_and_line_ends_are_found(tmp_path: Path, delimiter: str, end: str) -> None:
    text = end.join(delimiter.join(row) for row in ROWS) + end
    frame = read_sheet(str(written(tmp_path, text))).frame
    assert list(frame.columns) == ["name", "x", "y"]
    assert frame["x"].tolist() == [n + 0.25 for n in range(30)]


def test_a_decimal_comma_is_found(tmp_path: Path) -> None:
    text = "\n".join(";".join(row).replace(".", ",") for row in ROWS)
    dataset = Table(str(written(tmp_path, text)), tasks={"y": None}, carve_validation=False)
    assert "30 rows, with decimal commas. Inputs: 1 numeric (x), 1 cat" in dataset.remarks[0]
    assert dataset.facts["y"]["kind"] == "regression"
    seen = torch.cat([s["table"].targets["y"] for s in dataset.splits.values()])
    assert sorted(set(seen.tolist())) == [n + 0.5 for n in range(7)]


@pytest.mark.parametrize(
    ("name", "write", "encoding"),
    [
        ("t.csv.gz", lambda text: gzip.compress(text.encode()), "utf-8"),
        ("bom.csv", lambda text: b"\xef\xbb\xbf" + text.encode(), "utf-8"),
        ("latin.csv", lambda text: text.encode("latin-1"), "latin-1"),
        ("wide.csv", lambda text: text.encode("utf-16"), "utf-16"),
    ],
)
def test_gzip_marks_and_encodings(tmp_path: Path, name: str, write, encoding: str) -> None:
    path = written(tmp_path, write("naïve,é\n1,æ\n2,ø\n"), name)
    frame = read_sheet(str(path), encoding=encoding).frame
    assert frame.to_dict("list") == {"naïve": [1, 2], "é": ["æ", "ø"]}


EUROPEAN = ["1.234,50 €", "12,5 €", "-950 €", "1.000.000 €"]


@pytest.mark.parametrize(
    ("delimiter", "cells", "numbers", "written"),
    [
        (
            ",",
            ['"1,234"', "950", '"-1,234,567.5"', "12.25"],
            [1234, 950, -1234567.5, 12.25],
            "with",
        ),
        ("\t", ["1,234", "950", "12,000", "7"], [1234, 950, 12000, 7], "with thousands apart"),
        (";", ["1,234", "950", "12,125", "7"], [1.234, 950, 12.125, 7], ""),
        (";", ["1,234", "950", "1,234,567", "7"], [1234, 950, 1234567, 7], "with thousands apart"),
        (";", ["1.234", "0,5", "1.234.567,25", "7"], [1234, 0.5, 1234567.25, 7], ""),
        (";", EUROPEAN, [1234.5, 12.5, -950, 1000000], "in €"),
        (",", ["5%", "12.5 %", "-3%", "0%"], [5, 12.5, -3, 0], "in %"),
        (",", ["$5", "€7", "$1", "$2"], None, ""),  # no one unit
        (",", ["5", "7%", "1", "2"], None, ""),
        (",", ["1,23", "12,345", "1", "2"], None, ""),
    ],
)
def test_numbers_written_for_readers(
    tmp_path: Path, delimiter: str, cells: list[str], numbers, written: str
) -> None:
    quoted = [f'"{cell}"' if delimiter in cell and cell[0] != '"' else cell for cell in cells]
    rows = [delimiter.join([cell, "x"]) for cell in quoted]
    sheet = read_sheet(str(written_as(tmp_path, delimiter, rows)))
    found, words = numbers_of(sheet, "n")
    assert (found if found is None else found.tolist()) == numbers
    assert words.startswith(written)


def written_as(tmp_path: Path, delimiter: str, rows: list[str]) -> Path:
    return written(tmp_path, "\n".join([delimiter.join(["n", "c"]), *rows]))


@pytest.mark.parametrize(
    ("cells", "days", "words"),
    [
        (["1970-01-03", "1970-02-01T12:00"], [2, 31.5], "as days"),
        (["3.1.1970", "1.02.1970"], [2, 31], "as days, the day first"),
        (["3/1/1970 06:00", "13/1/1970 12:00"], [2.25, 12.5], "as days, the day first"),
        (["1/3/1970", "1/13/1970"], [2, 12], "as days, the month first"),
        (["1/3/1970", "1/12/1970"], None, ""),  # in January, or in March and December
        (["13/13/1970", "1/2/1970"], None, ""),
        (["1/13/1970", "1-13-1970"], None, ""),
        (["1970-01-03", "3.1.1970"], None, ""),
    ],
)
def test_dates_are_days(tmp_path: Path, cells: list[str], days, words: str) -> None:
    sheet = read_sheet(str(written_as(tmp_path, ",", [f"{cell},x" for cell in cells])))
    found, said = numbers_of(sheet, "n")
    assert (found if found is None else found.tolist(), said) == (days, words)


def test_a_cell_may_be_a_long_text(tmp_path: Path) -> None:
    path = written(tmp_path, 'c,y\n"' + "word " * 40_000 + '",1\n')
    assert len(read_sheet(str(path)).frame["c"][0]) == 200_000


def test_a_file_without_header_takes_the_names_given(tmp_path: Path) -> None:
    path = written(tmp_path, "".join(f"{n % 5}, a{n % 2}, {n}.5\n" for n in range(20)))
    dataset = Table(str(path), columns=["x", "c", "y"], tasks={"y": None})
    assert "20 rows. Inputs: 1 numeric (x), 1 categorical (c)" in dataset.remarks[0]
    assert "dataset.columns names 2 columns, and" in refused(path, columns=["x", "y"])
    message = refused(path, ["x"], columns=["x", "c", "y"], split="y")
    assert "line 1, column y: the cell is '0.5'" in message


def test_quotation_marks_that_hold_no_cell_together_are_text(tmp_path: Path) -> None:
    """A quotation mark at the start of a sentence must not swallow the sentences after it."""
    sentences = ['"Great', "so so", 'bad"', '"fine"', 'a "b" c']
    text = "text\ty\n" + "".join(f"{sentence}\t{n}\n" for n, sentence in enumerate(sentences))
    sheet = read_sheet(str(written(tmp_path, text)), as_text=["text"])
    assert sheet.frame["text"].tolist() == sentences
    assert sheet.notes == ", with quotation marks that stand for themselves"
    assert sheet.place(4).endswith("line 6")
    commas = text.replace("\t", ",")
    sheet = read_sheet(str(written(tmp_path, commas)), as_text=["text"])
    assert sheet.frame["text"].tolist() == ["Great,0\nso so,1\nbad", "fine", 'a "b" c']
    broken = commas.replace('bad"', '"bad" too')  # no quoting writes a mark there
    sheet = read_sheet(str(written(tmp_path, broken)), as_text=["text"])
    assert sheet.frame["text"].tolist() == ['"Great', "so so", '"bad" too', '"fine"', 'a "b" c']
    quoted = text.replace("Great\t0", 'Great\n"\t0').replace('bad"', "bad")
    sheet = read_sheet(str(written(tmp_path, quoted)), as_text=["text"])
    assert sheet.frame["text"].tolist() == ["Great\n", "so so", "bad", "fine", 'a "b" c']


def test_quotes_may_follow_a_blank(tmp_path: Path) -> None:
    sheet = read_sheet(str(written(tmp_path, 'x, c, y\n1, "a, b", 2\n3, "c", 4\n')))
    assert sheet.frame.to_dict("list") == {"x": [1, 3], "c": ["a, b", "c"], "y": [2, 4]}


def test_rows_of_delimiters_only_are_no_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "x,y\n1,2\n,\n\n  \n3,4\n,\n")
    sheet = read_sheet(str(path))
    assert sheet.frame["x"].tolist() == [1, 3]
    assert sheet.place(1, "x") == f"{path}, line 6, column x"


def test_numbers_in_one_file_and_text_in_another_are_text(tmp_path: Path) -> None:
    paths = [written(tmp_path, f"c,x\n{c},1\n", f"{c}.csv") for c in ("07", "b")]
    assert read_sheet([str(path) for path in paths]).frame["c"].tolist() == ["07", "b"]


def test_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "x": np.arange(40, dtype=np.float32) % 9,
            "day": pd.date_range("2020-01-01", periods=40),
            "c": pd.Categorical(["a", "b"] * 20),
            "flag": [True, False, False, True] * 10,
            "y": np.arange(40) % 4,
        }
    )
    path = tmp_path / "t.parquet"
    frame.to_parquet(path)
    dataset = Table(str(path), tasks={"y": None, "flag": None})
    assert "2 numeric (x, day as days), 1 categorical (c)" in dataset.remarks[0]
    assert dataset.facts["y"]["class_names"] == ["0", "1", "2", "3"]
    assert dataset.facts["flag"]["class_names"] == ["False", "True"]
    frame.loc[7, "x"] = np.inf
    frame.to_parquet(path)
    assert f"{path}, row 8, column x: inf is no finite number" in refused(path)
    path.write_bytes(path.read_bytes()[:100])
    assert f"{path} is damaged or is no parquet file" in refused(path)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(
        st.tuples(
            st.text(st.sampled_from("ab ,;\t|\"\n'é"), max_size=6),
            st.floats(-1e6, 1e6, allow_nan=False),
        ),
        min_size=2,
        max_size=12,
    ),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
)
def test_whatever_stands_in_quotes_comes_back(
    tmp_path: Path, cells: list[tuple[str, float]], delimiter: str
) -> None:
    frame = pd.DataFrame(
        {"text": [f"x{text}x" for text, _ in cells], "number": [v for _, v in cells]}
    )
    path = tmp_path / "quoted.csv"
    frame.to_csv(path, sep=delimiter, index=False, quoting=2)
    sheet = read_sheet(str(path), as_text=["text"])
    assert sheet.frame["text"].tolist() == frame["text"].tolist()
    assert sheet.frame["number"].tolist() == pytest.approx(frame["number"].tolist(), rel=1e-12)
    newlines = sum(text.count("\n") for text, _ in cells[:-1])
    assert sheet.place(len(cells) - 1) == f"{path}, line {1 + len(cells) + newlines}"


def rows_of(count: int, line: str) -> str:
    return "x,c,y\n" + line.join(f"{n},a{n % 2},{n}.5\n" for n in range(count))


BAD = [
    (rows_of(3, "1,2\n"), {}, "{path}, line 3: it has 2 cells, and the header names 3 columns"),
    (rows_of(3, '"1\n1",2\n'), {}, "{path}, line 3: it has 2 cells"),
    (rows_of(3, "1,2,3,4\n"), {}, "{path}, line 3: it has 4 cells, and the header names 3"),
    ('"x",c,y\n1,a,2\n1,"b,2\n1,a,2\n', {},
     "{path}, line 3: it has 2 cells, and the header names 3 columns. A quotation mark on it goes"),
    ('"x",c,y\n1,a,2\n1,b,"2\n1,a,2\n', {}, "{path}, line 3: a quotation mark is opened and never"),
    ("x,y,x\n1,2,3\n", {}, "{path}, line 1: 2 columns are called x"),
    ("1,2,1\n1,2,3\n", {}, "name its columns by dataset.columns"),
    ("", {}, "{path} is empty"),
    ("x,c,y\n", {}, "{path} has no rows"),
    (b"PK\x03\x04....", {}, "{path} is an Excel workbook or a zip archive. Save its table as CSV"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1", {}, "{path} is an Excel workbook or a zip archive"),
    ("\nx y\n1 2\n", {}, "{path}, line 2: there is one column only, 'x y'. Columns must stand"),
    ("x,y\na,1,2\nb,3,4\n", {},
     "{path}, line 2: it has 3 cells, and the header names 2 columns. So has every row: give the"),
    ('"x","y"\n"a",1,2\n"b",3,4\n', {}, "So has every row: give the header one name more"),
    ("0,1\n5,6\n", {},
     "no column y. Known: 0, 1. Where the file has no header line, name its columns by"),
    (rows_of(40, "").replace("31,", "none,"), {},
     "{path}, line 33, column x: 'none' is no number, and nearly all other values of x are"),
    (rows_of(30, "").replace("a0", "-inf").replace("a1", "2"), {},
     "column c: -inf is no finite number"),
    (b"x,y\n\0\0,1\n", {}, "{path} holds zero bytes"),
    ("x,c,y\n1,a,2\n1,é,2\n".encode("latin-1"), {},
     "{path}, line 3: byte 3 of the line, 0xe9, is not in encoding utf-8. Add dataset.encoding=c"),
    ("x,c,y\n".encode("utf-16"), {}, "Add dataset.encoding=utf-16"),
    (rows_of(3, ""), {"encoding": "utf-9"}, "dataset.encoding=utf-9: there is no such encoding"),
    (rows_of(9, "inf,b,2.5\n").replace("\n", "\r\n"), {}, "{path}, line 3, column x: inf is no"),
    (rows_of(9, "inf,b,2.5\n"), {}, "{path}, line 3, column x: inf is no finite number"),
    (rows_of(9, "1e39,b,2.5\n"), {}, "{path}, line 3, column x: 1e+39 is no finite number"),
    (rows_of(9, "few,b,2.5\n"), {"numeric": ["x"]},
     "{path}, line 3, column x: 'few' is no number, and dataset.numeric names x"),
    (rows_of(9, ""), {"numeric": ["xx"]},
     "dataset.numeric: {path} has no column xx. Did you mean x? Known: x, c, y."),
    (rows_of(9, ""), {"tasks": ["z"]}, "dataset.tasks: {path} has no column z"),
    (rows_of(9, ""), {"tasks": []}, "Name the columns of {path} to predict"),
    (rows_of(9, ""), {"inputs": ["x", "y"]},
     "Column y of {path} has one use, and dataset.tasks and dataset.inputs both name it"),
    (rows_of(9, ""), {"numeric": ["x", "x"]}, "and dataset.numeric names it twice"),
    (rows_of(9, ""), {"numeric": ["x"], "text": ["x"]},
     "dataset.numeric and dataset.text both name it"),
    (rows_of(9, ""), {"ignore": ["x", "c"]}, "{path} has no column to predict from"),
    (rows_of(9, ""), {"classes": {"x": ["a", "b"]}}, "dataset.classes names x. "),
    (rows_of(9, ""), {"split": "c"},
     "{path}, line 2, column c: the cell is 'a0', and dataset.split=c knows train, val"),
    (rows_of(9, "1,,2.5\n"), {"group": "c"}, "{path}, line 3, column c: the cell is missing"),
    (rows_of(9, "1,,2.5\n"), {"task_column": "c"}, "{path}, line 3, column c: the cell is missing"),
    ("x,y\n1,2\n", {}, "{path}: none of the 1 row is for test"),
    ("x,c,y\n1,train,2\n3,train,4\n", {"split": "c"}, "none of the 2 rows is for test. Write test"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "own", "message"), BAD, ids=[message[:60] for *_, message in BAD])
def test_bad_input_is_named(tmp_path: Path, text: str | bytes, own: dict, message: str) -> None:
    path = written(tmp_path, text)
    assert message.format(path=path) in refused(path, **own)


def test_files_that_are_not_there_or_do_not_fit(tmp_path: Path, monkeypatch) -> None:
    good = written(tmp_path, rows_of(9, ""), "good.csv")
    more = written(tmp_path, rows_of(9, ""), "more.csv")
    other = written(tmp_path, "x,c,z\n1,2,3\n", "other.csv")
    monkeypatch.chdir(tmp_path)
    message = refused("god.csv")
    assert f"there is no such file (it counts from {tmp_path}). Did you mean good.csv?" in message
    assert "is a folder" in refused(tmp_path)
    with pytest.raises(UserError, match=r"dataset\.path names no file.*mtlrun dataset=table"):
        Table(tasks={"y": None})
    with pytest.raises(UserError, match="different columns: only one of them has y, z"):
        Table([str(good), str(other)], tasks={"y": None})
    with pytest.raises(UserError, match=r"names .*good.csv twice"):
        Table([str(good), str(good)], tasks={"y": None})
    with pytest.raises(UserError, match=r"dataset\.path\.trian: there is no such split"):
        Table({"trian": str(good)}, tasks={"y": None})
    with pytest.raises(UserError, match=r"none of the 9 rows is for test\. Name its file"):
        Table({"train": str(good)}, tasks={"y": None})
    with pytest.raises(UserError, match=r"a file for each split, and dataset\.split a column"):
        Table({"train": str(good), "test": str(more)}, split="c", tasks={"y": None})

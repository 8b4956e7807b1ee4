"""Yelp reviews with stars, from the tables and JSON lines that they are published as."""

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from mtlrun.data.files import opened
from mtlrun.errors import UserError

COLUMNS = ("text", "stars")


def read_reviews(path: Path, rows: int | None = None) -> tuple[list[str], Tensor]:
    """Reviews, and the class of each: negative (1 or 2 stars), neutral (3) or positive (4 or 5).

    Args:
        path: a table (``.csv``) whose header names ``text`` and ``stars`` among its columns; or
            (``.json``, ``.jsonl``) an object a line with these keys, as Yelp's own
            ``yelp_academic_dataset_review.json``; UTF-8, compressed (``.gz``) or not.
        rows: read the first so many; None is all.

    Returns:
        the texts, and their classes 0, 1 or 2: int64 [rows].

    Raises:
        UserError: the file is missing, damaged, or not of this form.
    """
    if rows is not None and rows < 3:
        raise ValueError(f"yelp_rows={rows}: must be at least 3, or null for all reviews")
    suffix = Path(path.name.removesuffix(".gz")).suffix
    readers = {".csv": _table, ".json": _json_lines, ".jsonl": _json_lines}
    if suffix not in readers:
        raise UserError(
            f"dataset.yelp_file={path} is neither a table (.csv) nor JSON lines (.json, .jsonl)."
        )
    if not path.is_file():
        raise UserError(
            f"dataset.yelp_file={path}: there is no such file. Yelp's reviews are at "
            "yelp.com/dataset (yelp_academic_dataset_review.json)."
        )
    texts: list[str] = []
    classes: list[int] = []
    for where, text, stars in islice(readers[suffix](path, _lines(path)), rows):
        texts.append(text)
        classes.append(_class(stars, where))
    if not texts:
        raise UserError(f"{path} has no reviews. Copy or download it again.")
    return texts, torch.tensor(classes)


def _class(stars: str, where: str) -> int:
    try:
        number = float(stars)
    except ValueError:
        number = -1
    if number not in (1, 2, 3, 4, 5):
        raise UserError(f"{where}, column stars: expected 1 to 5, and found {stars!r}.")
    return 0 if number < 3 else 1 if number == 3 else 2


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file that may be too large to hold, with their ends."""
    try:
        with opened(path) as file:
            for number, line in enumerate(file, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 in line {number}, byte {error.start + 1}. Copy or download it "
            "again, or convert it."
        ) from error


def _table(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    csv.field_size_limit(2**30)
    reader = csv.DictReader(lines, strict=True)
    try:
        for name in COLUMNS:
            if name not in (reader.fieldnames or ()):
                raise UserError(
                    f"{path} has no column {name} in its first line. Its columns are "
                    f"{', '.join(reader.fieldnames or ['none'])}."
                )
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            text, stars = row["text"], row["stars"]
            if text is None or stars is None or None in row:
                raise UserError(f"{where}: the row has not as many columns as the first line.")
            yield where, text, stars
    except csv.Error as error:
        raise UserError(
            f"{path}, near line {reader.line_num}, is not a CSV table: {error}."
        ) from error


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            review = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where} is not a JSON object: {error}.") from error
        if not isinstance(review, dict) or not isinstance(review.get("text"), str):
            raise UserError(f"{where} is not an object with the keys text and stars.")
        yield where, review["text"], str(review.get("stars"))

import csv
import gzip
import json
from pathlib import Path

import pytest
import torch

from mtlrun.data.movie_yelp import MovieYelp
from mtlrun.data.text import TokenSource
from mtlrun.data.yelp_reviews import read_reviews
from mtlrun.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 negative and 20 positive snippets, and 20 sentences; each row has a word of its own."""
    movies, sentences = tmp_path / "movie_reviews", tmp_path / "yelp_sentences"
    movies.mkdir()
    sentences.mkdir()
    for name, word in (("neg", "dull"), ("pos", "fine")):
        lines = "".join(f"a {word} \x85 {word}film{number} . \n" for number in range(20))
        (movies / f"rt-polarity.{name}").write_bytes(lines.encode("latin-1"))
    rows = (f"Clásico,\tvisit{number}!\t{number % 2}\n" for number in range(20))
    (sentences / "yelp_labelled.txt").write_text("".join(rows))
    return tmp_path


def texts(dataset: MovieYelp, split: str, stream: str) -> tuple[TokenSource, int]:
    source = dataset.splits[split][stream]
    assert isinstance(source, TokenSource)
    return source, len(source)


def test_streams_splits_and_targets(folder: Path) -> None:
    dataset = MovieYelp(str(folder), validation=0.25)
    sizes = {
        part: {name: len(source) for name, source in sources.items()}
        for part, sources in dataset.splits.items()
    }
    assert sizes == {
        "test": {"movie": 8, "yelp": 4},
        "val": {"movie": 8, "yelp": 4},
        "train": {"movie": 24, "yelp": 12},
    }
    assert dataset.streams == {"movie": ("movie",), "yelp": ("yelp",)}
    assert dataset.input_kind == {"movie": "tokens", "yelp": "tokens"}
    assert dataset.input_shape == {"movie": (4,), "yelp": (4,)}  # a dull film1 . (NEL is space)
    # a word of each of 36 training rows; a, dull, fine, . and clásico, ",", !
    assert dataset.input_facts["yelp"] == {"vocabulary": 2 + 36 + 7}
    inputs, targets = dataset.splits["train"]["movie"].rows(torch.arange(24))
    assert targets["movie"].dtype == torch.float32
    assert inputs.shape == (24, 4)
    share = targets["movie"].mean().item()
    assert dataset.facts["movie"]["positive_share"] == pytest.approx(share)
    second_words = {inputs[row, 1].item() for row in range(24) if targets["movie"][row] == 0}
    assert len(second_words) == 1  # all negative rows say "dull"
    assert dataset.facts["yelp"] == {"classes": 2, "class_names": ["negative", "positive"]}
    assert "val" not in MovieYelp(str(folder), carve_validation=False).splits


def test_words_of_test_rows_are_unknown(folder: Path) -> None:
    dataset = MovieYelp(str(folder))
    inputs, _ = dataset.splits["test"]["yelp"].rows(torch.arange(4))
    assert (inputs == 1).sum(1).tolist() == [1, 1, 1, 1]  # visit<number>
    # 2 + 4 rows of yelp have 4 words, 8 + 3 of movie 4, and one of each row is its own
    assert dataset.remarks[0].endswith("; 25.0% of the words in other rows are unknown")


def test_seed_decides_the_rows(folder: Path) -> None:
    first, again, other = (
        MovieYelp(str(folder), seed=seed).splits["test"]["movie"].rows(torch.arange(8))[1]["movie"]
        for seed in (0, 0, 3)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_files_may_lie_together(folder: Path) -> None:
    flat = folder / "flat"
    flat.mkdir()
    for path in (*folder.glob("movie_reviews/*"), *folder.glob("yelp_sentences/*")):
        (flat / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert len(MovieYelp(str(flat)).splits["test"]["movie"]) == 8


def test_bad_sentences_are_named(folder: Path) -> None:
    path = folder / "yelp_sentences" / "yelp_labelled.txt"
    path.write_text("fine\t1\nno label\n")
    with pytest.raises(UserError, match=r"yelp_labelled.txt, line 2: expected a sentence, a tab"):
        MovieYelp(str(folder))
    path.write_bytes(b"fine\t1\nclich\xe9\t1\n")
    with pytest.raises(UserError, match=r"is not utf-8 in line 2, byte 6 \(0xe9\)"):
        MovieYelp(str(folder))
    path.write_text("")
    with pytest.raises(UserError, match="is empty"):
        MovieYelp(str(folder))
    path.unlink()
    with pytest.raises(UserError, match=r"lacks yelp_labelled.txt\. Get .*dataset.root=FOLDER"):
        MovieYelp(str(folder))


def test_an_empty_snippet_is_named(folder: Path) -> None:
    path = folder / "movie_reviews" / "rt-polarity.pos"
    path.write_bytes(b"fine .\r\n \r\nfine .\r\n")
    with pytest.raises(UserError, match=r"rt-polarity.pos, line 2 is empty"):
        MovieYelp(str(folder))


REVIEWS = [("Dull,\nand long", 1), ("so so", 3), ('the "best"', 5), ("fine", 4), ("no", 2)]
CLASSES = [0, 1, 2, 2, 0]


def as_csv(path: Path, reviews: list[tuple[str, object]] = REVIEWS) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review_id", "stars", "text", "cool"])
        writer.writerows([f"id{number}", stars, text, 0] for number, (text, stars) in
                         enumerate(reviews))  # fmt: skip
    return path


def test_reviews_with_stars(tmp_path: Path, folder: Path) -> None:
    table = as_csv(tmp_path / "yelp.csv")
    lines = "".join(json.dumps({"stars": float(s), "text": t}) + "\n" for t, s in REVIEWS)
    compressed = tmp_path / "reviews.json.gz"
    compressed.write_bytes(gzip.compress(lines.encode("utf-8-sig")))
    for path in (table, compressed):
        texts, classes = read_reviews(path)
        assert texts == [text for text, _ in REVIEWS]
        assert classes.tolist() == CLASSES
        assert read_reviews(path, 3)[1].tolist() == CLASSES[:3]
    dataset = MovieYelp(str(folder), yelp_file=str(as_csv(tmp_path / "more.csv", REVIEWS * 4)))
    assert dataset.facts["yelp"]["class_names"] == ["negative", "neutral", "positive"]
    assert len(dataset.splits["test"]["yelp"]) == 4


CUT_OFF = gzip.compress(b"text,stars\nfine,1\n", mtime=0)[:-9]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text,star\nfine,1\n", "has no column stars .* are text, star"),
        ("a.csv", b"text,stars\nfine,6\n", "line 2, column stars: .* found '6'"),
        ("a.csv", b"text,stars\nfine\n", "line 2: the row has not as many columns"),
        ("a.csv", b'text,stars\nfine,"1', "near line 1, is not a CSV table"),
        ("a.csv", b"text,stars\n", "has no reviews"),
        ("a.csv", b"text,stars\nfine,1\n\xff,2\n", "is not UTF-8 in line 3, byte 1"),
        ("a.json", b'{"text": "fine", "stars": 1}\n{"text', "line 2 is not a JSON object"),
        ("a.json", b"[1]\n", "line 1 is not an object with the keys"),
        ("a.json", b'{"text": "fine"}\n', "line 1, column stars: .* found 'None'"),
        (
            "a.csv.gz",
            gzip.compress(b"text,stars\nfine,1\n", mtime=0)[:-9],
            "is not a whole gzip file",
        ),
        ("a.txt", b"", "neither a table"),
    ],
)
def test_bad_reviews_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}.*{message}"):
        read_reviews(path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"test": 1.0}, "test=1.0"),
        ({"validation": 0}, "validation=0"),
        ({"sentences": []}, "sentences="),
        ({"sentences": ["yelps"]}, "no file yelps. Did you mean yelp"),
        ({"yelp_rows": 5}, "goes with yelp_file only"),
        ({"yelp_file": "a.csv", "sentences": ["imdb"]}, "has no effect"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MovieYelp(**wrong)


@pytest.mark.data
def test_the_real_files(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MTLRUN_DATA", str(shared_data))
    dataset = MovieYelp()
    sizes = {name: len(source) for name, source in dataset.splits["train"].items()}
    assert sizes == {"movie": 7677, "yelp": 720}
    assert dataset.input_shape["movie"] == (61,)
    assert len(list(tmp_path.glob("mtlrun/text/*.npz"))) == 1
    more = MovieYelp(sentences=["yelp", "amazon", "imdb"])
    assert len(more.splits["test"]["yelp"]) == 600

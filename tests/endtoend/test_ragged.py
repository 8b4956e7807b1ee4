"""Runs on rows of unequal length: stopped and resumed, and read by other processes."""

from pathlib import Path

import pytest
from in_process import assert_same_run, train, train_with_stops

WORDS = ["play", "some", "rain", "in", "new", "york", "by", "the", "old", "band", "now", "please"]


@pytest.fixture(scope="module")
def snips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 commands of 1 to 12 words to train, 30 to validate and to test."""
    root = tmp_path_factory.mktemp("snips")
    for part, rows in (("train", 90), ("valid", 30), ("test", 30)):
        (root / part).mkdir()
        lines = [
            [WORDS[(row + n * n) % 12] for n in range(row * 7 % 12 + 1)] for row in range(rows)
        ]
        tags = [["B-city" if word in ("new", "york") else "O" for word in line] for line in lines]
        intents = ["Play" if line[0] in WORDS[:6] else "Ask" for line in lines]
        for name, content in (
            ("seq.in", map(" ".join, lines)),
            ("seq.out", map(" ".join, tags)),
            ("label", intents),
        ):
            (root / part / name).write_text("".join(f"{line}\n" for line in content))
    return root


@pytest.fixture(scope="module")
def movie_yelp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 snippets of 1 to 10 words of each kind, and 60 sentences."""
    root = tmp_path_factory.mktemp("movie_yelp")
    for name, mood in (("neg", "dull"), ("pos", "fine")):
        lines = (" ".join([mood, *WORDS[: row * 3 % 10]]) for row in range(60))
        (root / f"rt-polarity.{name}").write_text("".join(f"{line}\n" for line in lines))
    rows = (f"{' '.join(WORDS[row % 5 : row % 11 + 1])}\t{row % 2}\n" for row in range(60))
    (root / "yelp_labelled.txt").write_text("".join(rows))
    return root


CASES = {
    "joint": "dataset=snips weighting=mgda backbone.embedding=8 backbone.hidden=6",
    "drawn": "dataset=movie_yelp backbone=text_cnn backbone.embedding=8 backbone.maps=4",
    "drawn tasks": "dataset=snips backbone=transformer backbone.width=8 sampler=uniform",
}


@pytest.mark.parametrize("case", CASES)
def test_resumes_and_is_read_by_workers(
    case: str,
    snips: Path,
    movie_yelp: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    composing: None,
) -> None:
    root = snips if "dataset=snips" in CASES[case] else movie_yelp
    chosen = [*CASES[case].split(), f"dataset.root={root}", "batch_size=10"]
    whole, stopped, read = tmp_path / "whole", tmp_path / "stopped", tmp_path / "read"
    train(whole, *chosen)
    initial = train_with_stops(stopped, monkeypatch, *chosen)
    assert_same_run(whole, stopped, initial)
    train(read, *chosen, "engine.workers=2")
    assert_same_run(whole, read, initial)

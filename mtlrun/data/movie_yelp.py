"""Movie and Yelp: the sentiment of movie-review snippets and of Yelp reviews, in two streams."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mtlrun.data.base import carve, carved, check_share
from mtlrun.data.encoded_texts import TextSettings
from mtlrun.data.files import find_root, plain_or_gzip, read_lines
from mtlrun.data.text_dataset import TextDataset, TextStream
from mtlrun.data.yelp_reviews import read_reviews
from mtlrun.errors import UserError, did_you_mean

MOVIE_FILES = ("rt-polarity.neg", "rt-polarity.pos")
MOVIE_FOLDERS = (".", "movie_reviews", "rt-polaritydata", "movie_reviews/rt-polaritydata")
SENTENCE_FILES = {
    "yelp": "yelp_labelled.txt",
    "amazon": "amazon_cells_labelled.txt",
    "imdb": "imdb_labelled.txt",
}
SENTENCE_FOLDERS = (".", "yelp_sentences", "sentiment labelled sentences")
CLASSES = {2: ["negative", "positive"], 3: ["negative", "neutral", "positive"]}


class MovieYelp(TextDataset):
    """Two collections of reviews, each a stream of its own, in one vocabulary.

    - ``movie``: whether a snippet of a movie review is positive (5331 negative and 5331 positive;
      Pang & Lee, ACL 2005);
    - ``yelp``: whether a sentence of a restaurant review is negative or positive (1000 sentences;
      Kotzias et al., KDD 2015); or, where ``yelp_file`` names reviews with stars, whether a review
      is negative (1 or 2 stars), neutral (3) or positive (4 or 5).

    Neither has an official split: test and validation rows are drawn from each at random. The
    vocabulary is made from the training rows of both.

    Args:
        root: folder that holds the files, or the folders ``movie_reviews`` and ``yelp_sentences``
            with them (or those that the publishers' archives unpack to); None is ``$MTLRUN_DATA``
            itself, else ``data``.
        sentences: which of the files of labelled sentences make the stream ``yelp``: ``yelp``,
            ``amazon``, ``imdb``.
        yelp_file: reviews with stars to read in their place, see
            :func:`mtlrun.data.yelp_reviews.read_reviews`.
        yelp_rows: only the first so many of these; None is all.
        validation: share of each stream's training rows to carve out for validation.
        test: share of each stream's rows to test on.
        seed: of the splits. It is not the run's, so that all runs see the same rows.
        tokenizer: see :class:`~mtlrun.data.encoded_texts.TextSettings`; likewise ``min_count``,
            ``max_words``, ``max_length`` and ``ngrams``.
        carve_validation: whether to carve at all.

    Raises:
        UserError: a file is missing or damaged.
    """

    def __init__(
        self,
        root: str | None = None,
        sentences: Sequence[str] = ("yelp",),
        yelp_file: str | None = None,
        yelp_rows: int | None = None,
        validation: float = 0.1,
        test: float = 0.2,
        seed: int = 0,
        tokenizer: str = "words",
        min_count: int = 1,
        max_words: int | None = None,
        max_length: int | None = None,
        ngrams: int = 1,
        *,
        carve_validation: bool = True,
    ) -> None:
        check_share("validation", validation)
        check_share("test", test)
        settings = TextSettings(tokenizer, min_count, max_words, max_length, ngrams)
        _check_yelp_settings(sentences, yelp_file, yelp_rows)
        folder = find_root("", root)
        movie_texts, movie = _movie(folder)
        if yelp_file is None:
            classes = 2
            yelp_texts, yelp = _sentences(folder, sentences)
        else:
            classes = 3
            yelp_texts, yelp = read_reviews(Path(yelp_file).expanduser(), yelp_rows)
        streams = {}
        for name, texts, target in (("movie", movie_texts, movie), ("yelp", yelp_texts, yelp)):
            training, testing = carve(len(texts), test, seed)
            splits = {"test": testing, **carved(training, validation, seed, carve_validation)}
            streams[name] = TextStream(texts, {name: target}, splits)
        super().__init__(streams, settings)
        share = movie[streams["movie"].splits["train"]].mean().item()
        self.facts = {
            "movie": {"class_names": CLASSES[2], "positive_share": share},
            "yelp": {"classes": classes, "class_names": CLASSES[classes]},
        }


def _check_yelp_settings(
    sentences: Sequence[str], yelp_file: str | None, yelp_rows: int | None
) -> None:
    for name in sentences:
        if name not in SENTENCE_FILES:
            raise ValueError(f"sentences: no file {name}. {did_you_mean(name, SENTENCE_FILES)}")
    if not sentences or len(set(sentences)) < len(sentences):
        raise ValueError(f"sentences={list(sentences)}: name one file or more, each once")
    if yelp_file is None and yelp_rows is not None:
        raise ValueError(f"yelp_rows={yelp_rows} goes with yelp_file only, and that is null")
    if yelp_file is not None and list(sentences) != ["yelp"]:
        raise ValueError("sentences has no effect where yelp_file is given: leave one out")


def _movie(root: Path) -> tuple[list[str], Tensor]:
    """Snippets, and whether each is positive: float32."""
    texts: list[str] = []
    targets = []
    for positive, name in enumerate(MOVIE_FILES):
        path = _find(root, MOVIE_FOLDERS, name)
        if path is None:
            raise UserError(_missing(root))
        lines = read_lines(path, "latin-1")
        _refuse_empty(path, lines)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                raise UserError(f"{path}, line {number} is empty, and each line is a snippet.")
        texts += lines
        targets.append(torch.full((len(lines),), float(positive)))
    return texts, torch.cat(targets)


def _sentences(root: Path, names: Sequence[str]) -> tuple[list[str], Tensor]:
    """Labelled sentences, and the class of each: 0 negative, 1 positive, int64."""
    texts: list[str] = []
    labels: list[int] = []
    for name in names:
        path = _find(root, SENTENCE_FOLDERS, SENTENCE_FILES[name])
        if path is None:
            raise UserError(_missing(root, names))
        lines = read_lines(path)
        _refuse_empty(path, lines)
        for number, line in enumerate(lines, 1):
            text, tab, label = line.rpartition("\t")
            if not tab or label.strip() not in ("0", "1"):
                raise UserError(
                    f"{path}, line {number}: expected a sentence, a tab, and 0 or 1, and found "
                    f"{line[-40:]!r} at its end."
                )
            texts.append(text)
            labels.append(int(label))
    return texts, torch.tensor(labels)


def _refuse_empty(path: Path, lines: Sequence[str]) -> None:
    if not lines:
        raise UserError(f"{path} is empty. Copy or download it again.")


def _find(root: Path, folders: Sequence[str], name: str) -> Path | None:
    found = (plain_or_gzip(root / folder, name) for folder in folders)
    return next((path for path in found if path is not None), None)


def _missing(root: Path, names: Sequence[str] = ("yelp",)) -> str:
    files = [
        *(file for file in MOVIE_FILES if _find(root, MOVIE_FOLDERS, file) is None),
        *(
            SENTENCE_FILES[name]
            for name in names
            if _find(root, SENTENCE_FOLDERS, SENTENCE_FILES[name]) is None
        ),
    ]
    state = "does not exist" if not root.is_dir() else f"lacks {', '.join(files)}"
    return (
        f"Movie and Yelp are read from the folders movie_reviews and yelp_sentences in {root}, "
        f"which {state}. Get rt-polarity.neg and rt-polarity.pos (sentence polarity dataset 1.0, "
        "rt-polaritydata) from cs.cornell.edu/people/pabo/movie-review-data for movie_reviews, and "
        "yelp_labelled.txt (Sentiment Labelled Sentences) from archive.ics.uci.edu for "
        "yelp_sentences; or name the folder that has them by dataset.root=FOLDER or the "
        "environment variable MTLRUN_DATA. Yelp's own reviews with stars go by "
        "dataset.yelp_file=FILE. They are read as they are: nothing has to be prepared."
    )

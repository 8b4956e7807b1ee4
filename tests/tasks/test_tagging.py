import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from task_checks import (
    assert_loss_is_precise,
    assert_nothing_is_read_back,
    assert_nothing_labelled_is_nothing,
    assert_unlabelled_rows_change_nothing,
    metrics_of,
)
from torch import Tensor
from torch.nn import functional as F

from mtlrun.tasks.tagging import Tagging

NAMES = ["O", "B-NP", "I-NP", "B-VP", "I-VP", "I-PP"]
Rows = list[list[str]]


def bio_task(names: list[str] = NAMES) -> Tagging:
    return Tagging(name="chunk", classes=len(names), class_names=names)


def encode(rows: Rows, names: list[str] = NAMES) -> Tensor:
    """Classes [N, L], -1 where a row is padded and for the name "?"."""
    length = max(map(len, rows))
    codes = [[names.index(tag) if tag in names else -1 for tag in row] for row in rows]
    return torch.tensor([row + [-1] * (length - len(row)) for row in codes])


def answers(rows: Rows, names: list[str] = NAMES) -> Tensor:
    """Logits [N, L, classes] whose highest are the tags, the last class where rows are padded."""
    codes = encode(rows, names)
    return F.one_hot(torch.where(codes < 0, len(names) - 1, codes), len(names)).float()


def conlleval_spans(row: list[str]) -> set[tuple[int, int, str]]:
    """First and last token and type of each span, token by token as the script of CoNLL-2000."""
    found, start = set(), None
    before, type_before = "O", ""
    for index, tag in enumerate([*row, "O"]):
        mark, _, type = tag.partition("-")
        change = type != type_before
        ends = before in "BI" and (mark in "BO" or change)
        begins = mark == "B" or (mark == "I" and (before == "O" or change))
        if start is not None and ends:
            found.add((start, index - 1, type_before))
            start = None
        if begins:
            start = index
        before, type_before = mark, type
    return found


def conlleval(true: Rows, predicted: Rows) -> tuple[int, int, int]:
    """Numbers of true, predicted and correct spans."""
    pairs = [(conlleval_spans(t), conlleval_spans(p)) for t, p in zip(true, predicted, strict=True)]
    return (
        sum(len(t) for t, _ in pairs),
        sum(len(p) for _, p in pairs),
        sum(len(t & p) for t, p in pairs),
    )


@st.composite
def tagged(draw: st.DrawFn) -> tuple[Rows, Rows]:
    """Rows of unequal length, and answers that often agree with them."""
    tags = st.sampled_from(NAMES)
    true = draw(st.lists(st.lists(tags, min_size=1, max_size=9), min_size=1, max_size=4))
    predicted = [
        [draw(tags) if draw(st.integers(0, 2)) == 0 else tag for tag in row] for row in true
    ]
    return true, predicted


@given(rows=tagged())
def test_spans_are_those_of_conlleval(rows: tuple[Rows, Rows]) -> None:
    statistics = bio_task().statistics(answers(rows[1]), encode(rows[0]))
    counts = tuple(int(statistics[key].sum()) for key in ("true", "predicted", "correct"))
    assert counts == conlleval(*rows)


def test_spans_are_counted_by_type() -> None:
    true = [["B-NP", "I-NP", "B-NP", "I-VP", "I-VP", "O", "I-PP"], ["I-NP", "I-NP"]]
    predicted = [["B-NP", "I-NP", "I-NP", "I-VP", "I-VP", "O", "I-PP"], ["B-NP", "I-NP"]]
    task = bio_task()
    assert task.tags is not None
    assert task.tags.types == ("NP", "VP", "PP")
    statistics = task.statistics(answers(predicted), encode(true))
    assert statistics["true"].tolist() == [3, 1, 1]
    assert statistics["predicted"].tolist() == [2, 1, 1]
    assert statistics["correct"].tolist() == [1, 1, 1]  # of NP the one in the second row


def test_the_known_example_of_seqeval() -> None:
    names = ["O", "B-MISC", "I-MISC", "B-PER", "I-PER"]
    true = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    predicted = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    figures = metrics_of(bio_task(names), (answers(predicted, names), encode(true, names)))
    assert figures == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "accuracy": 0.8}


def test_figures_of_batches_of_unequal_length_are_those_of_all_rows() -> None:
    batches = [
        ([["B-NP", "I-NP", "O"], ["B-VP"]], [["B-NP", "I-NP", "B-NP"], ["B-NP"]]),
        ([["B-NP", "O", "B-VP", "I-VP", "O"]], [["B-NP", "O", "B-VP", "I-VP", "O"]]),
    ]
    figures = metrics_of(bio_task(), *((answers(p), encode(t)) for t, p in batches))
    assert figures["precision"] == pytest.approx(3 / 5)
    assert figures["recall"] == pytest.approx(3 / 4)
    assert figures["f1"] == pytest.approx(6 / 9)
    assert figures["accuracy"] == pytest.approx(7 / 9)


def test_untyped_tags() -> None:
    names = ["I", "O", "B"]
    true, predicted = [["I", "I", "B", "O", "I"]], [["B", "I", "B", "O", "O"]]
    figures = metrics_of(bio_task(names), (answers(predicted, names), encode(true, names)))
    assert (figures["precision"], figures["recall"]) == (1, pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("true", "predicted", "expected"),
    [
        (["B-NP", "O"], ["O", "O"], (0, 0, 0)),
        (["O", "O"], ["O", "B-NP"], (0, 0, 0)),
        (["O", "O"], ["O", "O"], (math.nan,) * 3),
    ],
)
def test_figures_where_there_are_no_entities(
    true: list[str], predicted: list[str], expected: tuple[float, ...]
) -> None:
    figures = metrics_of(bio_task(), (answers([predicted]), encode([true])))
    found = tuple(figures[metric] for metric in ("f1", "precision", "recall"))
    assert found == pytest.approx(expected, nan_ok=True)
    assert figures["accuracy"] == pytest.approx(sum(map(str.__eq__, true, predicted)) / 2)


def test_an_unlabelled_token_belongs_to_no_entity() -> None:
    true, predicted = [["B-NP", "?", "I-NP", "?"]], [["B-NP", "I-NP", "I-NP", "B-VP"]]
    statistics = bio_task().statistics(answers(predicted), encode(true))
    assert [int(statistics[key].sum()) for key in ("true", "predicted", "correct")] == [2, 2, 2]
    assert int(statistics["confusion"].sum()) == 2


def draw(rows: int, names: list[str] = NAMES) -> tuple[Tensor, Tensor]:
    """Logits and rows of unequal length, some of them without any label."""
    draws = torch.Generator().manual_seed(rows)
    logits = 2 * torch.randn(rows, 12, len(names), generator=draws)
    target = torch.randint(len(names), (rows, 12), generator=draws)
    lengths = torch.randint(-3, 13, (rows, 1), generator=draws)
    target[torch.arange(12) >= lengths] = -1
    return logits, target


@pytest.mark.parametrize("scheme", ["bio", "none"])
def test_what_every_task_keeps_to(scheme: str) -> None:
    task = Tagging(name="chunk", classes=6, class_names=NAMES, scheme=scheme)
    logits, target = draw(40)
    assert_unlabelled_rows_change_nothing(task, logits, target)
    assert_nothing_labelled_is_nothing(task, logits, torch.full_like(target, -1))
    assert_loss_is_precise(task, logits, target)
    assert_nothing_is_read_back(task, logits, target)


def test_padding_is_outside_whatever_class_comes_first() -> None:
    names = ["B-NP", "I-NP", "O"]
    true = [["I-NP"], ["B-NP", "I-NP", "O"]]
    metrics = metrics_of(bio_task(names), (answers(true, names), encode(true, names)))
    assert metrics == dict.fromkeys(("f1", "precision", "recall", "accuracy"), 1.0)
    found = bio_task(names).statistics(answers(true, names), encode(true, names))
    assert (found["true"].tolist(), found["predicted"].tolist()) == ([2], [2])


def test_padding_changes_nothing() -> None:
    task = bio_task()
    logits, target = draw(40)
    target[:, 8:] = -1
    metrics = metrics_of(task, (logits, target))
    assert metrics == metrics_of(task, (logits[:, :8], target[:, :8]))
    assert 0 < metrics["f1"] < 1
    cut = task.loss(logits[:, :8], target[:, :8])
    torch.testing.assert_close(task.loss(logits, target), cut)


def test_loss_is_the_mean_over_all_labelled_tokens() -> None:
    task = bio_task()
    logits, target = draw(30)
    here = target >= 0
    torch.testing.assert_close(
        task.loss(logits, target), F.cross_entropy(logits[here], target[here])
    )
    zero = task.loss(torch.zeros_like(logits), target)
    assert zero.item() == pytest.approx(task.initial_loss) == pytest.approx(math.log(6))


def test_metrics_of_other_classes_are_those_of_tokens() -> None:
    task = Tagging(name="pos", classes=6)
    batches = [draw(rows) for rows in (2, 30)]
    figures = metrics_of(task, *batches)
    logits, target = (torch.cat(column) for column in zip(*batches, strict=True))
    labels, predicted = target[target >= 0], logits[target >= 0].argmax(1)
    assert list(figures) == ["accuracy", "f1_macro"]
    assert figures["accuracy"] == accuracy_score(labels, predicted)
    assert figures["f1_macro"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert next(iter(Tagging.metrics)) == "f1"


def test_facts() -> None:
    task = bio_task()
    assert (task.output_size, task.per, task.likelihood) == (6, "token", "classification")
    assert task.labelled(torch.tensor([[0, -1], [-1, -1]])).tolist() == [True, False]
    plain = Tagging(name="pos", classes=3, class_names=["NN", "I", "O"])
    assert plain.tags is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "classes=1"),
        ({"classes": 3, "class_names": ["O"]}, r"class_names=\['O'\]: .* each of 3 classes"),
        ({"classes": 2, "scheme": "iob"}, "scheme='iob': choose one of auto, bio, none"),
        ({"classes": 2, "scheme": "bio"}, "scheme=bio: class '0' is no BIO tag"),
        ({"classes": 2, "class_names": ["O", "O"], "scheme": "bio"}, "scheme=bio: no class is"),
        (
            {"classes": 4, "class_names": ["O", "B-PER", "E-PER", "I-PER"]},
            "Some classes look like BIO tags, and class 'E-PER' is no BIO tag: .* scheme=none",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tagging(name="chunk", **arguments)


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"chunk: .*\[2, 5, 6\] .*\[2, 4\]"):
        bio_task().loss(torch.zeros(2, 5, 6), torch.zeros(2, 4, dtype=torch.long))

"""Shared-private networks: what the two terms measure and whom they train."""

from math import log

import pytest
import torch
from architecture_cases import ONE_STREAM, TWO_STREAMS, build, inputs_of, maker
from torch.nn import functional as F

from mtlrun.models.architectures.hps import HPS
from mtlrun.models.architectures.shared_private import (
    SharedPrivate,
    overlap,
    reversed_gradient,
)

TASKS = ("a", "b", "c")


def test_heads_read_shared_then_private_channels() -> None:
    architecture = build("shared_private", TWO_STREAMS)
    assert isinstance(architecture, SharedPrivate)
    inputs = inputs_of(TWO_STREAMS)
    found = architecture.with_terms(inputs, TASKS).features
    for task, stream in architecture.stream_of.items():
        shared = architecture.backbone(inputs[stream])
        private = architecture.private_of[task](inputs[stream])
        assert torch.equal(found[task], torch.cat([shared, private], 1))
    first, second, _ = architecture.backbones
    assert torch.equal(first.stages[0][0].weight, second.stages[0][0].weight)
    assert not torch.equal(first.stages[0][0].weight, architecture.backbone.stages[0][0].weight)


def test_maps_of_several_stages_are_joined_on_channels() -> None:
    reads = {"a": [1, 2], "b": [1]}
    architecture = build("shared_private", TWO_STREAMS, "cnn", reads=reads)
    assert [architecture.out_channels(task) for task in TASKS] == [16, 8, 8]
    found = architecture.with_terms(inputs_of(TWO_STREAMS, "cnn"), TASKS)
    assert [found.features[task].shape[1] for task in TASKS] == [16, 8, 8]
    assert architecture.discriminator.in_features == 8  # both stages, pooled


def test_private_networks_build_on_the_stem() -> None:
    architecture = build("shared_private", TWO_STREAMS, "lstm")
    assert isinstance(architecture, SharedPrivate)
    assert architecture.stem == 1  # words share their vectors
    inputs = inputs_of(TWO_STREAMS, "lstm")
    words = architecture.backbone.stages[0](inputs["more"])
    own = architecture.private_of["c"].stages[1](words)
    private = architecture.private_of["c"].stages[2](own)
    found = architecture(inputs, ["c"])["c"]
    assert torch.equal(found, torch.cat([architecture.backbone(inputs["more"]), private], 2))
    counts = {stem: sum(p.numel() for p in _private(stem).parameters()) for stem in (0, 1)}
    assert counts[0] - counts[1] == 3 * 30 * 6  # three tables of 30 words
    with pytest.raises(ValueError, match=r"stem=3 leaves no private stage.*stem=0 to 2"):
        build("shared_private", TWO_STREAMS, "lstm", stem=3)
    with pytest.raises(ValueError, match=r"a head reads stage 1, .*stem=0"):
        build("shared_private", TWO_STREAMS, "lstm", stem=1, reads={"a": [1]})
    with pytest.raises(ValueError, match=r"private=false .*stem=0"):
        build("shared_private", TWO_STREAMS, private=False, stem=1)


def _private(stem: int) -> SharedPrivate:
    architecture = build("shared_private", TWO_STREAMS, "lstm", stem=stem)
    assert isinstance(architecture, SharedPrivate)
    return architecture


def test_without_private_networks_it_is_hard_sharing() -> None:
    make = maker("mlp")
    hard = HPS(make_backbone=make, streams=TWO_STREAMS)
    architecture = build("shared_private", TWO_STREAMS, make=make, private=False)
    inputs = inputs_of(TWO_STREAMS)
    assert architecture.terms == {"adversary": 0.05}
    found = architecture.with_terms(inputs, TASKS).features
    for task, expected in hard(inputs, TASKS).items():
        assert torch.equal(found[task], expected)
    assert build("shared_private", ONE_STREAM, private=False).one_representation
    assert build("shared_private", ONE_STREAM, private=False).terms == {}


def test_the_gradient_is_reversed() -> None:
    features = torch.randn(4, 3, requires_grad=True)
    passed = reversed_gradient(features)
    assert torch.equal(passed, features)
    passed.backward(torch.ones(4, 3))
    assert torch.equal(features.grad, -torch.ones(4, 3))


def test_the_adversary_trains_its_discriminator_and_untrains_the_shared_backbone() -> None:
    architecture = build("shared_private", TWO_STREAMS, private=False)
    inputs = inputs_of(TWO_STREAMS)
    found = architecture.with_terms(inputs, TASKS).terms["adversary"]
    logits = {s: architecture.discriminator(architecture.backbone(inputs[s])) for s in TWO_STREAMS}
    labels = {"images": torch.tensor([0, 0, 0]), "more": torch.tensor([1, 1, 1])}
    expected = sum(F.cross_entropy(logits[s], labels[s]) for s in TWO_STREAMS)
    torch.testing.assert_close(found, expected)
    parts = [architecture.discriminator, architecture.backbone]
    for part, sign in zip(parts, (1, -1), strict=True):
        parameters = list(part.parameters())
        gradients = torch.autograd.grad(found, parameters, retain_graph=True)
        plain = torch.autograd.grad(expected, parameters, retain_graph=True)
        for gradient, other in zip(gradients, plain, strict=True):
            torch.testing.assert_close(gradient, sign * other)
    with torch.no_grad():
        architecture.discriminator.weight.zero_()
        architecture.discriminator.bias.zero_()
    alone = architecture.with_terms({"more": inputs["more"]}, ["c"]).terms["adversary"]
    assert alone.item() == pytest.approx(log(2))  # a step of one task


def test_overlap_by_hand() -> None:
    shared = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
    private = torch.tensor([[0.0, 3.0], [1.0, -1.0]])
    # S^T P = [[2, 1], [1, -1]]
    assert float(overlap(shared, private, "paper")) == 7
    shared, private = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 2.0], [2.0, 2.0]])
    # Centred and of length 1 the rows are -+[.6, .8] and -+[1, 0]: S^T P = [[1.2, 0], [1.6, 0]]
    assert float(overlap(shared, private, "normalised")) == pytest.approx(1)
    assert float(overlap(7 * shared, private + 9, "normalised")) == pytest.approx(1)
    assert float(overlap(shared[:1], private[:1], "normalised")) == 0


@pytest.mark.parametrize("form", ["paper", "normalised"])
def test_orthogonality_is_summed_over_the_tasks_of_the_step(form: str) -> None:
    architecture = build("shared_private", ONE_STREAM, orthogonality_form=form)
    assert isinstance(architecture, SharedPrivate)
    assert architecture.terms == {"orthogonality": 0.01}
    inputs = inputs_of(ONE_STREAM)
    shared = architecture.backbone(inputs["images"])
    parts = {
        t: overlap(shared, b(inputs["images"]), form) for t, b in architecture.private_of.items()
    }
    for tasks in (TASKS, ("b",)):
        found = architecture.with_terms(inputs, tasks).terms
        torch.testing.assert_close(found["orthogonality"], sum(parts[task] for task in tasks))


def test_terms_with_nothing_to_work_on_are_refused() -> None:
    with pytest.raises(ValueError, match=r"adversarial=0.05: .* same rows, .*adversarial=0"):
        build("shared_private", ONE_STREAM, adversarial=0.05)
    with pytest.raises(ValueError, match=r"private=false .*orthogonality=0"):
        build("shared_private", TWO_STREAMS, private=False, orthogonality=0.1)
    with pytest.raises(ValueError, match="orthogonality=-1"):
        build("shared_private", TWO_STREAMS, orthogonality=-1)
    off = build("shared_private", TWO_STREAMS, adversarial=0, orthogonality=0)
    assert off.terms == {}
    assert not any("discriminator" in name for name, _ in off.named_parameters())


def test_the_lengths_of_an_evaluation_are_shown() -> None:
    architecture = build("shared_private", TWO_STREAMS).eval()
    assert isinstance(architecture, SharedPrivate)
    batches = [inputs_of(TWO_STREAMS, rows=rows) for rows in (2, 5)]
    for _ in range(2):
        architecture.start_evaluation()
        for batch in batches:
            architecture(batch, TASKS)
    (table,) = architecture.structure()
    rows = torch.cat([batch["more"] for batch in batches])
    expected = [
        part(rows).norm(dim=1).mean()
        for part in (architecture.backbone, architecture.private_of["c"])
    ]
    torch.testing.assert_close(table.values[2], torch.stack(expected))


@pytest.mark.parametrize("backbone", ["mlp", "segnet"])
def test_no_backbone_goes_deeper_than_heads_read(backbone: str) -> None:
    reads = {"a": [1], "b": [2], "c": [2]}
    architecture = build("shared_private", TWO_STREAMS, backbone, reads=reads)
    inputs = inputs_of(TWO_STREAMS, backbone)
    made = architecture.with_terms(inputs, TASKS)
    assert set(made.terms) == {"adversary", "orthogonality"}
    for task, features in made.features.items():
        parameters = architecture.task_parameters(task)
        gradients = torch.autograd.grad(
            features.square().sum(), parameters, retain_graph=True, allow_unused=True
        )
        assert parameters
        assert all(gradient is not None for gradient in gradients)
    (alone,) = architecture({"images": inputs["images"]}, ["a"]).values()
    assert alone.shape == made.features["a"].shape

"""Samplers that learn from the cosines of gradients."""

import math

import torch
from sampling_driver import ROWS, build, close, softmax, units

from mtlrun.sampling.units import Unit

REAL = torch.tensor(ROWS, dtype=torch.float64)
COSINES = torch.tensor(
    [[0.9, 0.4, -0.2, 0.0], [0.2, 0.8, 0.1, 0.3], [0.0, 0.1, 0.7, 0.5], [0.2, 0.3, 0.5, 0.6]],
    dtype=torch.float64,
)

# -- similarity ------------------------------------------------------------------------------------


def test_likeness_is_averaged_over_both_measurements_and_over_time() -> None:
    sampler = build("similarity", primary="task0", sharpness=2, momentum=0.75)
    assert (sampler.compares, sampler.refresh_every) == ("training", 100)
    close(sampler.probabilities(0), REAL / REAL.sum())
    sampler.refresh(COSINES)
    first = torch.tensor([1, 0.3, -0.1, 0.1], dtype=torch.float64)
    weights = REAL * (2 * first).exp()
    close(sampler.probabilities(0), weights / weights.sum())
    sampler.refresh(torch.zeros(4, 4).double())
    weights = REAL * (2 * torch.tensor([1, 0.225, -0.075, 0.075], dtype=torch.float64)).exp()
    close(sampler.probabilities(0), weights / weights.sum())


def test_a_measurement_that_failed_counts_as_none() -> None:
    sampler = build("similarity", primary="task1", temperature=math.inf)
    sampler.refresh(torch.full((4, 4), math.nan).double())
    close(sampler.probabilities(0), softmax([0, 1, 0, 0]))


def test_similarities_of_the_user() -> None:
    given = {"task1": 0.5, "task0": 1.0, "task3": -1.0, "task2": 0.0}
    sampler = build("similarity", similarities=given, temperature=2, sharpness=3)
    assert (sampler.compares, sampler.refresh_every) == ("nothing", 0)
    weights = REAL.sqrt() * (3 * torch.tensor([1, 0.5, 0, -1]).double()).exp()
    close(sampler.probabilities(0), weights / weights.sum())


def test_the_primary_may_be_a_task_of_a_stream() -> None:
    streams = (Unit("x", "x", ("a", "b"), 9, 3), Unit("y", "y", ("c",), 9, 3))
    sampler = build("similarity", streams, primary="c")
    sampler.refresh(torch.zeros(2, 2).double())
    close(sampler.probabilities(0), softmax([0.0, 1.0]))


# -- MultiDDS --------------------------------------------------------------------------------------


def test_it_starts_at_the_tempered_sizes() -> None:
    sampler = build("multi_dds")
    assert (sampler.compares, sampler.refresh_every) == ("validation", 1000)
    close(sampler.probabilities(0), REAL / REAL.sum())
    root = build("multi_dds", initial_temperature=2).probabilities(0)
    close(root, REAL.sqrt() / REAL.sqrt().sum())


def test_one_step_in_closed_form() -> None:
    """Adam's first step is learning_rate g / (|g| + 1e-8) with g_j = p_j sum R - R_j."""
    sampler = build("multi_dds", inner_steps=1, learning_rate=0.5)
    chances = REAL / REAL.sum()
    sampler.refresh(COSINES)
    rewards = COSINES.mean(dim=0)
    gradient = chances * rewards.sum() - rewards
    moved = chances.log() - 0.5 * gradient / (gradient.abs() + 1e-8)
    close(sampler.probabilities(0), torch.softmax(moved, 0))


def test_many_steps_beside_autograd() -> None:
    """The published update, written with torch's own Adam and automatic derivatives."""
    for weigh in (False, True):
        sampler = build("multi_dds", learning_rate=0.01, weigh_by_probability=weigh, inner_steps=20)
        logits = (REAL / REAL.sum()).log().requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=0.01)
        for refresh in range(3):
            cosines = COSINES * (1 - refresh)
            sampler.refresh(cosines)
            for _ in range(20):
                loss = -torch.log_softmax(logits, 0)
                if weigh:
                    loss = loss * torch.softmax(logits, 0).detach()
                optimizer.zero_grad()
                (loss * cosines.mean(dim=0)).sum().backward()
                optimizer.step()
        close(sampler.probabilities(0), torch.softmax(logits.detach(), 0), 1e-10)


def test_units_that_serve_all_become_likelier() -> None:
    """Equal units but for their rewards; 20 refreshes move a logit by up to 0.4."""
    sampler = build("multi_dds", units([100] * 4))
    agreeing = torch.tensor([0.6, 0.0, 0.0, -0.6]).double().expand(4, 4)
    last = sampler.probabilities(0)
    for _ in range(20):
        sampler.refresh(agreeing)
        chances = sampler.probabilities(0)
        assert chances[0] > last[0]
        assert chances[3] < last[3]
        last = chances
    assert torch.equal(last[1], last[2])
    assert 0.3 < float((last[0] / last[3]).log()) / 2 < 0.5


def test_failed_measurements_are_no_reward() -> None:
    sampler = build("multi_dds")
    sampler.refresh(torch.full((4, 4), math.nan).double())
    close(sampler.probabilities(0), REAL / REAL.sum())

"""Draws of a Gumbel-softmax."""

import torch
from scipy.stats import chisquare

from mtlrun.models.sharing.searching import gumbel_noise, gumbel_softmax, one_hot

CPU = torch.device("cpu")


def test_draws_have_the_softmaxs_probabilities_at_any_temperature() -> None:
    logits = torch.tensor([1.0, 0.0, -0.5])
    expected = (6000 * logits.softmax(0)).numpy()
    torch.manual_seed(0)
    for temperature in (0.1, 5.0):
        noise = gumbel_noise(6000, 3, device=CPU)
        drawn = gumbel_softmax(logits.expand(6000, 3), noise, torch.tensor(temperature), hard=True)
        counts = drawn.sum(0).numpy()
        assert counts.sum() == 6000
        assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 0.01


def test_noise_follows_the_global_generator() -> None:
    torch.manual_seed(3)
    first = gumbel_noise(2, 4, device=CPU)
    torch.manual_seed(3)
    assert torch.equal(gumbel_noise(2, 4, device=CPU), first)
    assert not torch.equal(gumbel_noise(2, 4, device=CPU), first)


def test_a_hard_draw_is_exact_and_has_the_relaxed_gradient() -> None:
    torch.manual_seed(1)
    logits = torch.randn(50, 3, requires_grad=True)
    noise, temperature = gumbel_noise(50, 3, device=CPU), torch.tensor(0.7)
    weights = torch.randn(50, 3)
    hard = gumbel_softmax(logits, noise, temperature, hard=True)
    relaxed = gumbel_softmax(logits, noise, temperature, hard=False)
    assert torch.equal(hard, one_hot(logits + noise))
    torch.testing.assert_close(relaxed, ((logits + noise) / 0.7).softmax(1))
    (gradient,) = torch.autograd.grad((hard * weights).sum(), logits)
    (expected,) = torch.autograd.grad((relaxed * weights).sum(), logits)
    assert torch.equal(gradient, expected)
    assert gradient.abs().sum() > 0

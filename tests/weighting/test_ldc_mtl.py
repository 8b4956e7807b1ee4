import pytest
import torch
from torch import Tensor
from weighting_driver import Drive, random_problem, task_infos

from mtlrun.weighting.base import StepInfo
from mtlrun.weighting.ldc_mtl import LDCMTL, NORMALISATIONS


def weights_of(weighting: LDCMTL, losses: list[float]) -> Tensor:
    weighting.step = StepInfo(0, 0, 0, tuple(range(len(losses))))
    leaves = [torch.tensor(loss, requires_grad=True) for loss in losses]
    weighting.objective(leaves).backward()
    return torch.stack([leaf.grad for leaf in leaves if leaf.grad is not None])


def build(tasks: int, **settings: object) -> LDCMTL:
    return LDCMTL(**settings, tasks=task_infos(tasks))


@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
@pytest.mark.parametrize("pairs", ["neighbours", "all"])
def test_objective_as_it_is_written(router: str, pairs: str) -> None:
    weighting = build(4, router=router, pairs=pairs, penalty=0.3)
    weighting.step = StepInfo(0, 0, 0, (0, 1, 2, 3))
    with torch.no_grad():
        weighting.logits.copy_(torch.tensor([0.5, -1.0, 0.2, 2.0]))
    losses = torch.tensor([1.0, 3.0, 0.5, 2.0])
    logits = weighting.logits.detach()
    weights = torch.softmax(logits, dim=0) if router == "softmax" else torch.sigmoid(logits)
    scaled = (weights * losses).tolist()
    chosen = [(0, 1), (1, 2), (2, 3)] + ([(0, 2), (0, 3), (1, 3)] if pairs == "all" else [])
    differences = sum(abs(scaled[i] - scaled[j]) for i, j in chosen)
    expected = sum(scaled) / weights.sum().item() + 0.3 * differences
    assert weighting.objective(list(losses)).item() == pytest.approx(expected, rel=1e-6)


def test_the_router_evens_out_the_weighted_losses() -> None:
    """With the sum's pull small beside the penalty, s_1 l_1 = s_2 l_2: s is (3/4, 1/4)."""
    weighting = build(2, penalty=20.0)
    weighting.step = StepInfo(0, 0, 0, (0, 1))
    optimizer = torch.optim.SGD(weighting.parameters(), lr=1e-3)
    for _ in range(300):
        optimizer.zero_grad()
        weighting.objective([torch.tensor(1.0), torch.tensor(3.0)]).backward()
        optimizer.step()
    shares = torch.softmax(weighting.logits.detach(), dim=0)
    torch.testing.assert_close(shares, torch.tensor([0.75, 0.25]), rtol=0, atol=0.02)


def test_all_pairs_do_not_depend_on_the_order() -> None:
    losses = [1.0, 3.0, 0.5, 2.0]
    order = [2, 0, 3, 1]
    plain = weights_of(build(4, pairs="all"), losses)
    moved = weights_of(build(4, pairs="all"), [losses[i] for i in order])
    torch.testing.assert_close(moved, plain[order])


def test_first_losses_in_the_normalisations() -> None:
    ratio = build(3, normalisation="initial_ratio", penalty=0)
    weights_of(ratio, [8.0, 2.0, 0.0])  # the third has no first loss yet
    expected = torch.tensor([1 / 4, 1.0, 1 / 2]) / 3
    torch.testing.assert_close(weights_of(ratio, [1.0, 1.0, 4.0]), expected)
    assert ratio.initial_losses.tolist() == [8.0, 2.0, 4.0]
    logarithm = build(2, normalisation="log_ratio", penalty=0)
    weights_of(logarithm, [8.0, 2.0])
    torch.testing.assert_close(weights_of(logarithm, [4.0, 1.0]), torch.tensor([1 / 8, 1 / 2]))


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_losses_of_zero_or_below(normalisation: str) -> None:
    for losses in ([0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [-1.0, 1.0, 2.0]):
        weighting = build(3, normalisation=normalisation)
        for _ in range(2):
            assert weights_of(weighting, losses).isfinite().all()
        assert weighting.logits.grad is not None
        assert weighting.logits.grad.isfinite().all()


def test_an_absent_task_is_no_neighbour() -> None:
    jacobian, losses = random_problem(3, 20)
    both, alone = Drive(build(3), 3), Drive(build(2), 2)
    chosen = [0, 2]
    got = both.step(jacobian[chosen], losses[chosen], chosen)
    torch.testing.assert_close(got, alone.step(jacobian[chosen], losses[chosen]))


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="penalty=-1: must be a number, 0 or more"):
        build(2, penalty=-1)
    for setting, choices in (
        ("normalisation", "ones, initial_ratio, log_ratio"),
        ("router", "softmax, sigmoid"),
        ("pairs", "neighbours, all"),
    ):
        with pytest.raises(ValueError, match=f"{setting}='x': choose one of {choices}"):
            build(2, **{setting: "x"})

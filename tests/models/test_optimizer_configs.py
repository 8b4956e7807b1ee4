"""The choices of configs/optimizer and configs/scheduler: torch's own."""

from pathlib import Path

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import nn

CONFIGS = Path(__file__).parents[2] / "configs"
OPTIMIZERS = sorted(path.stem for path in (CONFIGS / "optimizer").glob("*.yaml"))
SCHEDULERS = sorted(path.stem for path in (CONFIGS / "scheduler").glob("*.yaml"))


def build(name: str, network: nn.Module) -> torch.optim.Optimizer:
    config = OmegaConf.load(CONFIGS / "optimizer" / f"{name}.yaml")
    optimizer = instantiate(config, params=list(network.parameters()), _convert_="all")
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        network(torch.randn(8, 4, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_have_a_learning_rate_and_learn(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    optimizer = build(name, network)
    assert OmegaConf.load(CONFIGS / "optimizer" / f"{name}.yaml").lr == optimizer.defaults["lr"] > 0
    inputs = torch.randn(64, 4)
    before = network(inputs).square().mean()
    train(network, optimizer, range(50))
    assert network(inputs).square().mean() < before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_optimizer_takes_the_same_steps(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    optimizer = build(name, network)
    train(network, optimizer, range(3))
    torch.save([network.state_dict(), optimizer.state_dict()], tmp_path / "last.pt")
    train(network, optimizer, range(3, 6))

    resumed = nn.Linear(4, 3)
    network_state, optimizer_state = torch.load(tmp_path / "last.pt", weights_only=True)
    resumed.load_state_dict(network_state)
    optimizer = build(name, resumed)
    optimizer.load_state_dict(optimizer_state)
    train(resumed, optimizer, range(3, 6))
    assert torch.equal(resumed.weight, network.weight)
    assert torch.equal(resumed.bias, network.bias)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("step", {"step_size": 2}, [1, 1, 0.5, 0.5, 0.25]),
        ("exponential", {}, [1, 0.95, 0.95**2, 0.95**3, 0.95**4]),
        ("cosine", {"T_max": 4}, [1, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5, 0]),
    ],
)
def test_schedules(name: str, settings: dict[str, int], expected: list[float]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    config = OmegaConf.load(CONFIGS / "scheduler" / f"{name}.yaml")
    scheduler = instantiate(config, optimizer=optimizer, **settings)
    rates = []
    for _ in expected:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(expected)


def test_no_schedule_and_the_literatures() -> None:
    assert OmegaConf.load(CONFIGS / "scheduler" / "none.yaml") == {"_target_": None}
    step = OmegaConf.load(CONFIGS / "scheduler" / "step.yaml")
    assert (step.step_size, step.gamma) == (100, 0.5)
    assert OmegaConf.load(CONFIGS / "scheduler" / "cosine.yaml").T_max is None
    for name in SCHEDULERS:
        target = OmegaConf.load(CONFIGS / "scheduler" / f"{name}.yaml")._target_
        assert target is None or issubclass(get_class(target), torch.optim.lr_scheduler.LRScheduler)

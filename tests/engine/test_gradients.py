import pytest
import torch
from engine_reference import assert_gramian, assert_near
from torch import nn

from mtlrun.engine.gradients import BLOCK, TaskGradients, gramian


@pytest.mark.parametrize("tasks", [1, 2, 5])
@pytest.mark.parametrize("columns", [1, BLOCK - 1, BLOCK, 5 * BLOCK + 17])
def test_gramian_is_exact_over_long_rows(tasks: int, columns: int) -> None:
    rows = torch.randn(tasks, columns, generator=torch.Generator().manual_seed(columns))
    rows += 0.5  # a common part, so that inner products are large and their errors add up
    result = gramian(rows)
    assert result.shape == (tasks, tasks)
    assert_gramian(result, rows.double() @ rows.double().T, relative=1e-6)


def test_gramian_sums_blocks_in_double() -> None:
    # In float32, 2^24 + 1 is 2^24: what the second block adds would be lost.
    rows = torch.zeros(1, 2 * BLOCK)
    rows[0, 0], rows[0, BLOCK] = 4096, 1
    assert gramian(rows).item() == 2**24 + 1


def test_gramian_of_double_rows() -> None:
    rows = torch.randn(3, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gramian(rows), rows @ rows.T, rtol=1e-13, atol=0)


@pytest.fixture
def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), ())]


def flat(*gradients: torch.Tensor) -> torch.Tensor:
    return torch.cat([gradient.reshape(-1) for gradient in gradients])


def test_rows_hold_the_gradients_in_order(parameters: list[nn.Parameter]) -> None:
    held = TaskGradients(parameters, rows=3)
    first = [torch.randn(p.shape) for p in parameters]
    second = [torch.randn(p.shape) for p in parameters]
    held.start()
    held.write(0, first, add=False)
    held.write(1, second, add=False)
    assert held.rows(2).shape == (2, 11)
    assert torch.equal(held.rows(2)[0], flat(*first))
    assert torch.equal(held.rows(2)[1], flat(*second))


def test_micro_batches_add_up(parameters: list[nn.Parameter]) -> None:
    held = TaskGradients(parameters, rows=1)
    first = [torch.randn(p.shape) for p in parameters]
    second = [torch.randn(p.shape) for p in parameters]
    held.write(0, first, add=False)
    held.write(0, [second[0], None, second[2]], add=True)
    assert torch.equal(held.rows(1)[0], flat(first[0] + second[0], first[1], first[2] + second[2]))
    held.write(0, [None, None, None], add=True)
    assert torch.equal(held.rows(1)[0], flat(first[0] + second[0], first[1], first[2] + second[2]))


def test_a_parameter_that_a_task_misses_is_zero_in_its_row(parameters: list[nn.Parameter]) -> None:
    held = TaskGradients(parameters, rows=2)
    ones = [torch.ones(p.shape) for p in parameters]
    for row in (0, 1):
        held.write(row, ones, add=False)  # what an earlier step left
    held.start()
    held.write(0, [None, ones[1], None], add=False)
    held.write(1, [None, None, None], add=False)
    assert held.rows(2).tolist() == [[0] * 6 + [1] * 4 + [0], [0] * 11]


def test_columns_of_some_parameters(parameters: list[nn.Parameter]) -> None:
    held = TaskGradients(parameters, rows=2)
    rows = [[torch.randn(p.shape) for p in parameters] for _ in range(2)]
    for row, gradients in enumerate(rows):
        held.write(row, gradients, add=False)
    seen = held.columns([parameters[2], parameters[0]], 2)
    assert torch.equal(seen, torch.stack([flat(row[0], row[2]) for row in rows]))


def test_combine_fills_grad_of_reached_parameters_only(parameters: list[nn.Parameter]) -> None:
    held = TaskGradients(parameters, rows=3)
    first, second = ([torch.randn(p.shape) for p in parameters] for _ in range(2))
    held.start()
    held.write(0, [first[0], None, first[2]], add=False)
    held.write(1, [second[0], None, None], add=False)
    held.combine(torch.tensor([2.0, -0.5], dtype=torch.float64))
    assert_near(parameters[0].grad, 2 * first[0] - 0.5 * second[0], relative=1e-6)
    assert parameters[1].grad is None
    assert_near(parameters[2].grad, 2 * first[2], relative=1e-6)


def test_apply_takes_any_direction(parameters: list[nn.Parameter]) -> None:
    held = TaskGradients(parameters, rows=1)
    held.write(0, [torch.ones(p.shape) for p in parameters], add=False)
    held.apply(torch.arange(11.0))
    grads = [parameter.grad for parameter in parameters]
    assert [grad.tolist() for grad in grads if grad is not None] == [
        [[0, 1, 2], [3, 4, 5]],
        [6, 7, 8, 9],
        10,
    ]


def test_buffers_are_kept_from_step_to_step(parameters: list[nn.Parameter]) -> None:
    held = TaskGradients(parameters, rows=2)
    places = set()
    for _ in range(3):
        held.start()
        for row in range(2):
            held.write(row, [torch.randn(p.shape) for p in parameters], add=False)
        held.combine(torch.ones(2))
        grads = [p.grad for p in parameters]
        places.add((held.rows(2).data_ptr(), *(g.data_ptr() for g in grads if g is not None)))
        assert len(next(iter(places))) == 4
    assert len(places) == 1


def test_grad_is_laid_out_as_its_parameter() -> None:
    # Fused optimizers read memory in order, and never look at strides.
    image = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    parameters = [nn.Parameter(image), nn.Parameter(torch.randn(3, 4).t())]
    gradients = [torch.randn(4, 3, 5, 5), torch.randn(4, 3)]
    held = TaskGradients(parameters, rows=1)
    held.write(0, gradients, add=False)
    held.combine(torch.ones(1))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()
        assert torch.equal(parameter.grad, gradient)

"""What the dense tasks have in common."""

import pytest
import torch
from task_checks import NothingReadBack

from mtlrun.tasks.depth import Depth
from mtlrun.tasks.normals import SurfaceNormals
from mtlrun.tasks.segmentation import Segmentation


def segmentation(draws):
    target = torch.randint(4, (6, 8, 9), generator=draws, dtype=torch.uint8)
    target[torch.rand(6, 8, 9, generator=draws) < 0.3] = 255
    return Segmentation(name="task", classes=4), torch.randn(6, 4, 8, 9, generator=draws), target


def depth(draws):
    target = torch.rand(6, 8, 9, generator=draws) * 5
    target[torch.rand(6, 8, 9, generator=draws) < 0.3] = 0
    return Depth(name="task"), torch.randn(6, 1, 8, 9, generator=draws), target


def normals(draws):
    target = torch.randn(6, 3, 8, 9, generator=draws)
    target[:, :, :2] = 0
    return SurfaceNormals(name="task"), torch.randn(6, 3, 8, 9, generator=draws), target


@pytest.fixture(params=[segmentation, depth, normals])
def case(request):
    return request.param(torch.Generator().manual_seed(0))


def test_statistics_of_batches_add_up_to_those_of_all_rows(case):
    task, prediction, target = case
    whole = task.statistics(prediction, target)
    first, second = (task.statistics(prediction[s], target[s]) for s in (slice(1), slice(1, None)))
    for name, value in whole.items():
        assert value.dtype in (torch.int64, torch.float64)
        torch.testing.assert_close(first[name] + second[name], value)
    assert task.compute(whole) == pytest.approx(
        task.compute({name: first[name] + second[name] for name in whole}), rel=1e-8
    )


def test_nothing_is_read_back_from_the_device(case):
    task, prediction, target = case
    prediction.requires_grad_()
    with NothingReadBack():
        task.loss(prediction, target).backward()
        task.statistics(prediction.detach(), target)
        task.labelled(target)


def test_pictures_have_the_size_of_the_maps(case):
    task, prediction, target = case
    assert task.picture(prediction).shape == task.picture(target).shape == (6, 3, 8, 9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_figures_without_waiting(case):
    task, prediction, target = case
    there, there_target = prediction.cuda(), target.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss, statistics = task.loss(there, there_target), task.statistics(there, there_target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loss.item() == pytest.approx(task.loss(prediction, target).item(), rel=1e-5)
    assert task.compute(statistics) == pytest.approx(
        task.compute(task.statistics(prediction, target)), rel=1e-5, abs=0.01
    )

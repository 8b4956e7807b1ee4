import pytest
import torch
from torch.nn import functional as F

from mtlrun.data.augment import Crops, Resampler, draw_crops

SIZE = (24, 32)
SCALES = (1.0, 1.2, 1.5)
CPU = torch.device("cpu")


def crops_of(top, left, height, width, flip, scale=1.0):
    return Crops(
        *(torch.tensor([value]) for value in (top, left, height, width)),
        flip=torch.tensor([flip]),
        scale=torch.tensor([scale]),
    )


def drawn(rows=64, seed=0):
    return draw_crops(rows, SIZE, SCALES, torch.Generator().manual_seed(seed))


def coordinates(rows):
    """Maps [rows, 2, H, W] that say where each pixel came from: its row and column."""
    grid = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    return torch.stack(grid).expand(rows, -1, -1, -1).contiguous()


def test_draws_are_in_range_and_all_choices_occur():
    crops = drawn(600)
    assert set(crops.height.tolist()) == {24, 20, 16}
    assert set(zip(crops.height.tolist(), crops.width.tolist(), strict=True)) == {
        (24, 32),
        (20, 26),
        (16, 21),
    }
    for start, extent, whole in (
        (crops.top, crops.height, SIZE[0]),
        (crops.left, crops.width, SIZE[1]),
    ):
        assert (start >= 0).all()
        assert (start + extent <= whole).all()
    smallest = crops.height == 16
    assert set(crops.top[smallest].tolist()) == set(range(9))
    assert 0.4 < crops.flip.double().mean() < 0.6
    for scale in SCALES:
        assert 0.25 < (crops.scale == scale).double().mean() < 0.42


def test_the_same_generator_draws_the_same_crops():
    first, second, other = drawn(seed=1), drawn(seed=1), drawn(seed=2)
    assert all(torch.equal(getattr(first, n), getattr(second, n)) for n in vars(first))
    assert not torch.equal(first.top, other.top)


def test_the_literature_s_sizes_are_exact():
    crops = draw_crops(100, (120, 160), SCALES, torch.Generator().manual_seed(0))
    assert set(crops.height.tolist()) == {120, 100, 80}
    crops = draw_crops(100, (288, 384), SCALES, torch.Generator().manual_seed(0))
    assert set(crops.width.tolist()) == {384, 320, 256}


def test_images_and_targets_show_the_same_place():
    crops = drawn()
    places = coordinates(64)
    resampler = Resampler(crops, SIZE, CPU)
    image = resampler.bilinear(places.to(torch.uint8))
    dense = resampler.nearest(places.to(torch.int16))
    flat = resampler.nearest(places[:, 1].to(torch.uint8))
    assert (image - dense).abs().max() <= 0.5 + 1e-4
    assert torch.equal(flat.long(), dense[:, 1].long())
    for row in range(64):
        top, left = int(crops.top[row]), int(crops.left[row])
        assert dense[row, 0].min() == top
        assert dense[row, 0].max() == top + crops.height[row] - 1
        assert dense[row, 1].min() == left
        assert dense[row, 1].max() == left + crops.width[row] - 1
        forwards = dense[row, 1, 0, -1] > dense[row, 1, 0, 0]
        assert forwards == (not crops.flip[row])
    assert torch.equal(resampler.sign.flatten() < 0, crops.flip)
    assert torch.equal(resampler.scale.flatten(), crops.scale)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float16, torch.float32])
def test_the_whole_frame_is_left_as_it_is(dtype):
    resampler = Resampler(crops_of(0, 0, *SIZE, False), SIZE, CPU)
    maps = torch.randint(0, 120, (1, 3, *SIZE)).to(dtype)
    assert torch.equal(resampler.nearest(maps), maps)
    torch.testing.assert_close(resampler.bilinear(maps), maps.float(), atol=2e-3, rtol=0)


def test_flipping_twice_gives_back_the_frame():
    resampler = Resampler(crops_of(0, 0, *SIZE, True), SIZE, CPU)
    maps = torch.randint(0, 255, (1, 3, *SIZE), dtype=torch.uint8)
    once = resampler.nearest(maps)
    assert torch.equal(once, maps.flip(-1))
    assert torch.equal(resampler.nearest(once), maps)
    twice = resampler.bilinear(resampler.bilinear(maps))
    torch.testing.assert_close(twice, maps.float(), atol=5e-3, rtol=0)


def test_it_is_cropping_and_resizing_as_torch_does_them():
    top, left, height, width = 3, 5, 16, 21
    resampler = Resampler(crops_of(top, left, height, width, False), SIZE, CPU)
    maps = torch.rand(1, 3, *SIZE)
    crop = maps[:, :, top : top + height, left : left + width]
    nearest = F.interpolate(crop, SIZE, mode="nearest-exact")
    assert torch.equal(resampler.nearest(maps), nearest)
    smooth = F.interpolate(crop, SIZE, mode="bilinear", align_corners=False)
    # At the crop's edge the neighbours outside it take part here, and not there.
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(resampler.bilinear(maps)[inner], smooth[inner], atol=1e-5, rtol=0)


def test_each_row_goes_its_own_way():
    crops = drawn(8)
    maps = torch.rand(8, *SIZE)
    together = Resampler(crops, SIZE, CPU).nearest(maps)
    for row in range(8):
        alone = Crops(*(getattr(crops, name)[row : row + 1] for name in vars(crops)))
        assert torch.equal(
            Resampler(alone, SIZE, CPU).nearest(maps[row : row + 1])[0], together[row]
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_sees_the_same_crops():
    crops, maps = drawn(8), torch.rand(8, 3, *SIZE)
    here, there = Resampler(crops, SIZE, CPU), Resampler(crops, SIZE, torch.device("cuda"))
    assert torch.equal(there.nearest(maps.cuda()).cpu(), here.nearest(maps))
    torch.testing.assert_close(
        there.bilinear(maps.cuda()).cpu(), here.bilinear(maps), atol=1e-4, rtol=0
    )

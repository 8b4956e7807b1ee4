"""Fitted normals against exact planes and against published normals of the same frames.

The published ones (``nyuv2_float/normal_mask``) are RGB images of (n + 1) / 2 with the axes x to
the right, y away from the camera, z up, and white where there is none: found by comparing all
signed permutations with normals fitted to the depth beside them.
"""

import numpy as np
import pytest
from PIL import Image

from mtlrun.data.nyuv2.normals import camera_of, fit_normals

FRAMES = ("0061", "0295", "0774", "1314")


def everywhere(height, width, step=1):
    return np.arange(0, height, step), np.arange(0, width, step)


def plane_depth(normal, distance, height, width):
    """Depth of the plane n . P = distance, in this project's axes (y up, z towards the camera)."""
    camera = camera_of(height, width)
    rays = np.stack(
        np.broadcast_arrays(
            (np.arange(width) - camera.centre_x) / camera.focal_x,
            -((np.arange(height) - camera.centre_y) / camera.focal_y)[:, None],
            -1.0,
        ),
        axis=-1,
    )
    return (distance / (rays @ np.asarray(normal))).astype(np.float32)


def angles(first, second):
    sine = np.linalg.norm(np.cross(first, second), axis=-1)
    return np.degrees(np.arctan2(sine, (first * second).sum(-1)))


@pytest.mark.parametrize("size", [(480, 640), (120, 160)])
@pytest.mark.parametrize(
    ("normal", "distance"),
    [
        ((0, 0, 1), -2.0),  # a wall seen straight on
        ((0.6, 0, 0.8), -3.0),  # a wall to the left, facing right
        ((0, 0.28, 0.96), -3.0),  # tilted upwards
        ((-0.36, -0.48, 0.8), -2.5),
    ],
)
def test_planes_are_exact_up_to_the_edge_of_the_frame(size, normal, distance):
    depth = plane_depth(normal, distance, *size)
    fitted = fit_normals(depth, camera_of(*size), *everywhere(*size, 3), rounding=0.0)
    assert angles(fitted, np.array(normal)).max() < 0.1
    assert np.linalg.norm(fitted, axis=-1) == pytest.approx(1, abs=1e-5)


def test_a_floor_faces_up():
    size = (120, 160)
    depth = plane_depth((0, 1, 0), -1.2, *size)  # 1.2 m below the camera
    depth[: size[0] // 2 + 20] = 0  # nothing at and above the horizon
    fitted = fit_normals(depth, camera_of(*size), *everywhere(*size), rounding=0.0)
    known = (fitted != 0).any(-1)
    assert known[-30:].all()
    assert angles(fitted[-30:], np.array([0, 1, 0])).max() < 0.5


def test_planes_do_not_mix_across_a_depth_edge():
    size = (60, 80)
    near, far = plane_depth((0.6, 0, 0.8), -2.0, *size), plane_depth((0, 0, 1), -6.0, *size)
    depth = np.where(np.arange(size[1]) < 30, near, far).astype(np.float32)
    fitted = fit_normals(depth, camera_of(*size), *everywhere(*size), rounding=0.0)
    assert angles(fitted[:, :30], np.array([0.6, 0, 0.8])).max() < 0.5
    assert angles(fitted[:, 30:], np.array([0, 0, 1])).max() < 0.5


def test_rounded_depth_gives_no_terraces():
    size = (120, 160)
    normal = np.array([0.48, 0.36, 0.8])
    depth = plane_depth(normal, -2.0, *size)
    rounded = ((np.floor(depth * 25.5) + 0.5) / 25.5).astype(np.float32)
    fitted = fit_normals(rounded, camera_of(*size), *everywhere(*size), rounding=0.5 / 25.5)
    assert np.median(angles(fitted, normal)) < 8
    # Differences of neighbours see either a flat terrace or a cliff.
    across = np.diff(rounded, axis=1)[:, :-1]
    assert (across == 0).mean() > 0.3
    flat = angles(fitted, np.array([0, 0, 1.0])) < 5
    assert flat.mean() < 0.05


def test_unknown_depth_has_no_normal_and_does_not_spoil_its_neighbours():
    size = (40, 50)
    depth = plane_depth((0, 0, 1), -2.0, *size)
    depth[10:13, 10:13], depth[20, 20], depth[30, 30] = 0, np.nan, -1
    fitted = fit_normals(depth, camera_of(*size), *everywhere(*size), rounding=0.0)
    known = (fitted != 0).any(-1)
    assert (~known).sum() == 11
    assert angles(fitted[known], np.array([0, 0, 1])).max() < 0.1
    nothing = fit_normals(np.zeros(size, np.float32), camera_of(*size), *everywhere(*size), 0.0)
    assert (nothing == 0).all()


def test_too_few_points_or_points_on_a_line_give_no_normal():
    size = (40, 50)
    depth = np.zeros(size, dtype=np.float32)
    depth[5, :] = 2.0
    depth[20:22, 20] = 2.0
    fitted = fit_normals(depth, camera_of(*size), *everywhere(*size), rounding=0.0)
    assert (fitted == 0).all()


def published(path):
    """Published normals in this project's axes, and where there are any."""
    stored = np.asarray(Image.open(path)).astype(np.float32)
    normals = stored / 127.5 - 1
    known = (stored.min(-1) < 250) & (np.abs(np.linalg.norm(normals, axis=-1) - 1) < 0.1)
    return np.stack([normals[..., 0], normals[..., 2], -normals[..., 1]], axis=-1), known


@pytest.mark.data
@pytest.mark.parametrize("frame", FRAMES)
def test_full_size_depth_agrees_with_published_normals(shared_data, frame):
    expected, known = published(shared_data / f"nyuv2_float/normal_mask/{frame}.png")
    depth = np.load(shared_data / f"nyuv2_float/depth/{frame}.npy")
    rows, columns = everywhere(480, 640, step=4)
    fitted = fit_normals(depth, camera_of(480, 640), rows, columns, rounding=0.0)
    known = known[::4, ::4] & (fitted != 0).any(-1)
    error = angles(fitted[known], expected[::4, ::4][known])
    # Measured: medians 1.4, 2.7, 1.4, 1.6 degrees; shares within 11.25 degrees .90 to .92.
    assert np.median(error) < 3.2
    assert (error < 11.25).mean() > 0.87


@pytest.mark.data
@pytest.mark.parametrize("frame", FRAMES)
def test_8_bit_depth_agrees_with_published_normals(shared_data, frame):
    expected, known = published(shared_data / f"nyuv2_float/normal_mask/{frame}.png")
    stored = Image.open(shared_data / f"nyuv2_160x120/depth/{int(frame) + 1:04d}.png")
    depth = ((np.asarray(stored) + 0.5) / 25.5).astype(np.float32)
    rows, columns = everywhere(120, 160)
    fitted = fit_normals(depth, camera_of(120, 160), rows, columns, rounding=0.5 / 25.5)
    known = known[2::4, 2::4] & (fitted != 0).any(-1)
    error = angles(fitted[known], expected[2::4, 2::4][known])
    # Measured: medians 7.1, 7.2, 6.9, 5.4 degrees; shares within 11.25 degrees .70 to .78.
    assert np.median(error) < 8.5
    assert (error < 11.25).mean() > 0.66

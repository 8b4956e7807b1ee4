"""Surface normals from depth: planes fitted to the points around each pixel.

Axes, as everywhere in this project's NYUv2: x to the right, y up, z towards the camera, so that a
wall seen straight on has (0, 0, 1) and the floor about (0, 1, 0).

A plane seen by a pinhole camera has an inverse depth that is affine in the pixel's coordinates, so
fitting 1/Z by linear least squares fits a plane to the back-projected points. The window has the
extent that gave the best agreement with published normals of the same frames (within 2 degrees in
the median at full size; tests/data/test_nyuv2_normals.py): 9 pixels of 640 to each side, sampled
at 7 x 7 points. Points across a depth edge are left out in two rounds: first those whose depth is
far from the centre's, then those far from the plane fitted to the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

# The Kinect's colour camera of NYUv2's toolbox, in pixels of its 640 x 480 frame.
FULL_WIDTH, FULL_HEIGHT = 640, 480
FOCAL_X, FOCAL_Y = 518.857901, 519.469611
CENTRE_X, CENTRE_Y = 325.582449, 253.736166

POINTS_A_SIDE = 3
REACH = 9.0 / FULL_WIDTH
"""Extent of the window to each side, as a share of the frame's width."""

NEAR = 0.05
"""A point takes part in the first fit if its inverse depth is within this share of the centre's."""

ON_PLANE = 0.02
"""A point takes part in the second fit if it is within this share of the first fit's plane."""

FEWEST_POINTS = 4

NOWHERE = 1e6
"""Inverse depth of unknown points: far from any plane, and still a number."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera, in pixels of its frame, counted from 0 at the first pixel's middle."""

    focal_x: float
    focal_y: float
    centre_x: float
    centre_y: float


def camera_of(height: int, width: int) -> Camera:
    """NYUv2's colour camera for whole frames that were scaled to ``height`` x ``width``."""
    across, down = width / FULL_WIDTH, height / FULL_HEIGHT
    return Camera(
        FOCAL_X * across,
        FOCAL_Y * down,
        (CENTRE_X + 0.5) * across - 0.5,
        (CENTRE_Y + 0.5) * down - 0.5,
    )


def fit_normals(
    depth: Floats, camera: Camera, at_rows: Indices, at_columns: Indices, rounding: float
) -> Floats:
    """Unit normals at some pixels of a frame.

    Args:
        depth: metres [H, W]; not above 0 or NaN where unknown.
        camera: of this frame.
        at_rows: the rows wanted, [h].
        at_columns: the columns wanted, [w].
        rounding: half a step of the depth's units, in metres; widens what counts as near.

    Returns:
        float32 [h, w, 3]; 0 where depth is unknown or too few points lie on one plane.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(depth > 0, 1 / depth, NOWHERE).astype(np.float32)
    offsets = _offsets(depth.shape[1])
    reach = int(offsets[-1])
    padded = np.pad(inverse, reach, constant_values=NOWHERE)
    lines = {int(across): padded[:, reach + at_columns + across] for across in offsets}
    centre = inverse[np.ix_(at_rows, at_columns)]  # [h, w]
    # Rounding of depth by d changes the inverse q by q^2 d.
    slack = rounding * centre * centre

    slope_x = slope_y = residual = np.zeros_like(centre)
    for tolerance in (NEAR * centre + slack, ON_PLANE * centre + slack):
        plane = (residual, slope_x, slope_y)
        sums = _window_sums(lines, reach + at_rows, centre, plane, tolerance)
        residual, slope_x, slope_y, solved = _solve(sums)

    x = at_columns.astype(np.float32) - np.float32(camera.centre_x)
    y = at_rows.astype(np.float32)[:, None] - np.float32(camera.centre_y)
    # q = A X/Z + B Y/Z + C, so A X + B Y + C Z = 1: (A, B, C) points away from the camera.
    normals = np.stack(
        (
            -slope_x * camera.focal_x,
            slope_y * camera.focal_y,
            centre + residual - slope_x * x - slope_y * y,
        ),
        axis=-1,
    ).astype(np.float32)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    good = (solved & (centre < NOWHERE))[..., None] & (length > 0)
    return np.where(good, normals / np.where(good, length, 1), 0).astype(np.float32)


def _offsets(width: int) -> Indices:
    """Where the window's points lie along each axis, [7], in pixels of the frame."""
    spacing = max(1.0, REACH * width / POINTS_A_SIDE)
    steps = np.arange(-POINTS_A_SIDE, POINTS_A_SIDE + 1) * spacing
    return np.round(steps).astype(np.int64)


def _window_sums(
    lines: Mapping[int, Floats],
    rows: Indices,
    centre: Floats,
    plane: tuple[Floats, Floats, Floats],
    tolerance: Floats,
) -> list[Floats]:
    """Sums over the window of 1, x, y, x x, x y, y y, q, q x, q y where q, the inverse depth less
    the centre's, is within ``tolerance`` of ``plane`` (value at the centre, slopes): each [h, w].

    Args:
        lines: for each offset along x the frame's inverse depths at the columns wanted, shifted by
            it, [H + a margin on both sides, w]. Offsets along y are the same.
        rows: the rows wanted, counted with the margin, [h].
        centre: inverse depths, [h, w].
        plane: each [h, w].
        tolerance: [h, w].
    """
    sums = [np.zeros_like(centre) for _ in range(9)]
    at_centre, slope_x, slope_y = plane
    value, scratch, weight = (np.empty_like(centre) for _ in range(3))
    for down in lines:
        one, x, xx, q, qx = (np.zeros_like(centre) for _ in range(5))
        expected_row = at_centre + slope_y * np.float32(down)
        for across, shifted in lines.items():  # in place: this is where all the time goes
            step = np.float32(across)
            np.subtract(shifted[rows + down], centre, out=value)
            np.multiply(slope_x, step, out=scratch)
            scratch += expected_row
            np.subtract(value, scratch, out=scratch)
            np.abs(scratch, out=scratch)
            weight[...] = scratch <= tolerance
            value *= weight
            one += weight
            q += value
            value *= step
            qx += value
            weight *= step
            x += weight
            weight *= step
            xx += weight
        step = np.float32(down)
        terms = (one, x, one * step, xx, x * step, one * (step * step), q, qx, q * step)
        for total, term in zip(sums, terms, strict=True):
            total += term
    return sums


def _solve(sums: list[Floats]) -> tuple[Floats, Floats, Floats, npt.NDArray[np.bool_]]:
    """The least-squares plane: its value at the centre, its slopes along x and y, and where the
    points determine one. All [h, w].
    """
    count, x, y, xx, xy, yy, q, qx, qy = sums
    number: Floats = np.maximum(count, np.float32(1))
    xx, xy, yy = xx - x * x / number, xy - x * y / number, yy - y * y / number
    qx, qy = qx - q * x / number, qy - q * y / number
    determinant = xx * yy - xy * xy
    # Points on one line have a determinant of 0 but for rounding.
    solved = (count >= FEWEST_POINTS) & (determinant > 1e-3 * xx * yy)
    known = solved.astype(np.float32)
    divisor: Floats = np.where(solved, determinant, np.float32(1))
    scale = known / divisor
    slope_x, slope_y = scale * (qx * yy - qy * xy), scale * (qy * xx - qx * xy)
    at_centre: Floats = known * (q - slope_x * x - slope_y * y) / number
    return at_centre, slope_x, slope_y, solved

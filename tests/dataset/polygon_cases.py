"""Made `tests/data/polygons_4.8.npz` and `polygons_4.11.npz`: masks as two releases draw them.

    pip install 'opencv-python-headless==4.8.1.78' 'numpy<2'
    python tests/dataset/polygon_cases.py tests/data/golden/misc.npz tests/data

and again with a newer release. A mask is `cv2.polylines`, then `cv2.fillPoly`, of the corners
truncated to whole pixels, as the original draws ReasonSeg's polygons. A file holds, for all
polygons one after the other: `points` float64[sum n, 2], `lengths` int[cases], `sizes`
int[cases, 2] as (H, W), `kinds`, and `masks`, the pixels of all images packed to bits.
`reason_mask_0` ... are those of the annotations in misc.npz.
"""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np

KINDS = (
    *("convex", "concave", "crossing", "partly outside", "mostly outside", "far outside"),
    *("repeated", "on whole pixels", "few points", "large"),
)
EACH = 24


def polygon(kind: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """float64[n, 2], (x, y) in pixels."""
    extent = np.array(size[::-1], dtype=np.float64)
    count = int(rng.integers(3, 13))
    if kind in ("convex", "concave", "large"):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 60 if kind == "large" else count))
        radii = 0.49 if kind == "convex" else rng.uniform(0.1, 0.49, len(angles))[:, None]
        return extent * (0.5 + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1))
    if kind == "few points":
        return rng.uniform(-0.2, 1.2, (int(rng.integers(1, 4)), 2)) * extent
    if kind == "far outside":
        return rng.uniform(-9, 9, (count, 2)) * extent.max()
    if kind == "on whole pixels":
        return rng.integers(-1, 5, (count, 2)) * (extent // 4)
    low, high = {"partly outside": (-0.3, 1.3), "mostly outside": (-2, 3)}.get(kind, (0, 1))
    corners = rng.uniform(low, high, (count, 2)) * extent
    return np.repeat(corners, 2, axis=0)[: 2 * count - 1] if kind == "repeated" else corners


def draw(mask: np.ndarray, points: list, value: int) -> None:
    """As the original draws."""
    corners = [np.array(points, dtype=np.int32)]
    cv2.polylines(mask, corners, True, value, 1)
    cv2.fillPoly(mask, corners, value)


def reason_mask(shapes: list[dict], size: list[int]) -> np.ndarray:
    """uint8[H, W]: the smallest polygon on top, of equal ones the first."""
    drawn = []
    for shape in shapes:
        if shape["label"] != "flag":
            area = np.zeros(size, np.uint8)
            draw(area, shape["points"], 1)
            drawn.append((area.sum(), 255 if "ignore" in shape["label"] else 1, shape["points"]))
    drawn.sort(key=lambda entry: entry[0])
    mask = np.zeros(size, np.uint8)
    for _, value, points in drawn[::-1]:
        draw(mask, points, value)
    return mask


def main(golden: str, folder: str) -> None:
    """Draw and write all cases."""
    release = tuple(map(int, cv2.__version__.split(".")[:2]))
    if release < (4, 8):
        raise SystemExit(f"OpenCV is {cv2.__version__}: take 4.8 to 4.10, or 4.11 or newer")
    path = f"{folder}/polygons_{'4.8' if release < (4, 11) else '4.11'}.npz"
    rng = np.random.default_rng(8)
    kinds = [kind for kind in KINDS for _ in range(EACH)]
    sizes, polygons, masks = [], [], []
    for kind in kinds:
        low, high = (150, 300) if kind == "large" else (1, 80)
        size = (int(rng.integers(low, high)), int(rng.integers(low, high)))
        points = polygon(kind, size, rng).round(2)
        mask = np.zeros(size, np.uint8)
        draw(mask, points.tolist(), 1)
        sizes.append(size)
        polygons.append(points)
        masks.append(mask.ravel())
    np.savez_compressed(
        path,
        kinds=np.array(kinds),
        sizes=np.array(sizes),
        lengths=np.array([len(points) for points in polygons]),
        points=np.concatenate(polygons),
        masks=np.packbits(np.concatenate(masks)),
        **{
            f"reason_mask_{case['i']}": reason_mask(case["json"]["shapes"], case["hw"])
            for case in json.loads(str(np.load(golden)["meta"]))["reason"]
        },
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

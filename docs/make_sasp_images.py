"""Draws the images of `docs/sasp.md`: SasP step by step on one answer of a trained toy model.

    python -m docs.make_sasp_images quickstart_output/merged IMAGE QUESTION [--out docs/sasp]

The image is cut to a wide one first, so that undoing CLIP's centre crop can be seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from model import Answer, Segment, load_read
from model.inference.inputs import load_pixels
from model.sasp import (
    CLIP_FRAME,
    SaspParams,
    discrete_points,
    similarity_to_points,
    upscaling_matrix,
)
from utils.protocol.conversation import POSITIVE_ANSWER
from utils.protocol.geometry import crop_padding

COLOURS = {1: "#1a9c3c", 0: "#e5342b", -1: "#7d8590"}
NAMES = {1: "positive", 0: "negative", -1: "neutral"}
ARROWS = 500
"""How much the shifts of DtoC are enlarged in the image."""


class Steps:
    """One answer and everything that its points are made from.

    Args:
        image: uint8[H, W, 3].
        segment: the answer's mask with its similarity map.
        params: of SasP.
        out: folder of the images.
    """

    def __init__(self, image: np.ndarray, segment: Segment, params: SaspParams, out: Path):
        self.image, self.segment, self.params, self.out = image, segment, params, out
        self.size = image.shape[:2]
        self.map = torch.from_numpy(segment.similarity)
        self.scaled = (self.map - self.map.min()) / (self.map.max() - self.map.min())
        still, labels = discrete_points(self.map[None], self.size, params)
        self.still, self.labels = still[0], labels[0]
        self.values = self.map.flatten().clone().requires_grad_()
        self.moved, _ = similarity_to_points(self.values, self.size, params)
        # A positive point that DtoC moves in both directions.
        shifts = (self.moved.detach() - self.still).abs().prod(dim=-1)
        self.shown = int(shifts.masked_fill(self.labels != 1, -1).argmax())

    def figure(self, title: str, ratio: float | None = None) -> tuple[Figure, matplotlib.axes.Axes]:
        """A figure as wide as those of the page, with the axes of the image."""
        ratio = ratio or self.size[0] / self.size[1]
        figure = Figure(figsize=(5.4, 5.0 * ratio + 0.5), dpi=110, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
        return figure, axes

    def save(self, figure: Figure, name: str) -> None:
        figure.savefig(self.out / f"{name}.png")

    def show_image(self, axes: matplotlib.axes.Axes, opacity: float = 1.0) -> None:
        """The image in its own frame: pixel (x, y) covers [x, x + 1] x [y, y + 1]."""
        height, width = self.size
        axes.imshow(self.image, extent=(0, width, height, 0), alpha=opacity)
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)

    def crop(self) -> tuple[float, float, float]:
        """Left, top and side of CLIP's crop in pixels of the image."""
        height, width = self.size
        side = min(height, width)
        return (width - side) / 2, (height - side) / 2, side

    def dots(self, axes: matplotlib.axes.Axes, points: torch.Tensor) -> None:
        for label in (0, 1):
            chosen = points[self.labels == label].detach() + 0.5
            axes.scatter(*chosen.T, s=46, c=COLOURS[label], edgecolors="white", linewidths=1.2)

    # --- one method an image ---------------------------------------------------------------

    def input_image(self, question: str) -> None:
        figure, axes = self.figure(f'"{question}" Dashed: what CLIP sees')
        self.show_image(axes)
        left, top, side = self.crop()
        frame = Rectangle((left, top), side, side, fill=False, ls="--", lw=2, ec="#1f6feb")
        axes.add_patch(frame)
        self.save(figure, "1_image")

    def similarity(self) -> None:
        figure, axes = self.figure("similarity s of each image token, in thousands", ratio=0.86)
        drawn = axes.imshow(self.map, cmap="turbo")
        figure.colorbar(drawn, shrink=0.8)
        for (row, column), value in np.ndenumerate(self.map.numpy()):
            text = f"{value / 1000:.1f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white")
        self.save(figure, "2_similarity")

    def classes(self) -> None:
        figure, axes = self.figure("the grid in the image, scaled to 0 .. 1, with classes")
        self.show_image(axes, 0.55)
        side = self.map.shape[0] // self.params.down_sample
        rows_off, columns_off = crop_padding(self.size, side)
        rows, columns = side + 2 * rows_off, side + 2 * columns_off
        tall, wide = self.size[0] / rows, self.size[1] / columns
        everything = SaspParams(**{**vars(self.params), "num_points": side * side})
        points, labels = discrete_points(self.map[None], self.size, everything)
        label_of = {
            (int(y / tall), int(x / wide)): int(label)
            for (x, y), label in zip((points[0] + 0.5).tolist(), labels[0], strict=True)
        }
        reduced = torch.nn.functional.interpolate(self.map[None, None], size=(side, side))[0, 0]
        values = (reduced - reduced.min()) / (reduced.max() - reduced.min())
        for row in range(rows):
            for column in range(columns):
                corner = (column * wide, row * tall)
                inside = 0 <= row - rows_off < side and 0 <= column - columns_off < side
                if not inside:
                    style = {"fc": "#d8dde3", "ec": "#9aa4b0", "hatch": "//", "lw": 0.5}
                    axes.add_patch(Rectangle(corner, wide, tall, **style))
                    continue
                colour = COLOURS[label_of[row, column]]
                axes.add_patch(
                    Rectangle(
                        (corner[0] + wide * 0.06, corner[1] + tall * 0.06),
                        wide * 0.88,
                        tall * 0.88,
                        fc=(*matplotlib.colors.to_rgb(colour), 0.28),
                        ec=colour,
                        lw=1.6,
                    )
                )
                value = float(values[row - rows_off, column - columns_off])
                place = (corner[0] + wide / 2, corner[1] + tall / 2)
                axes.text(*place, f"{value:.2f}", ha="center", va="center", fontsize=8)
        self.save(figure, "3_classes")

    def points(self) -> None:
        count = [int((self.labels == label).sum()) for label in (1, 0)]
        figure, axes = self.figure(
            f"discrete points in their order: {count[0]} positive, {count[1]} negative"
        )
        self.show_image(axes)
        for number, (point, label) in enumerate(zip(self.still, self.labels, strict=True), 1):
            x, y = (point + 0.5).tolist()
            axes.scatter(x, y, s=130, c=COLOURS[int(label)], edgecolors="white", linewidths=1.2)
            axes.text(x, y, str(number), ha="center", va="center", fontsize=7, color="white")
        self.save(figure, "4_points")

    def full_map(self) -> torch.Tensor:
        """M: float32[H, W]."""
        height, width = self.size
        side = self.map.shape[0]
        rows_off, columns_off = crop_padding(self.size, CLIP_FRAME)
        along_y = upscaling_matrix(side, CLIP_FRAME, rows_off, height)
        along_x = upscaling_matrix(side, CLIP_FRAME, columns_off, width)
        return along_y @ self.scaled @ along_x.T

    def continuous(self) -> None:
        figure, axes = self.figure("the map M at the size of the image; 0 outside of the crop")
        height, width = self.size
        drawn = axes.imshow(self.full_map(), cmap="turbo", extent=(0, width, height, 0))
        figure.colorbar(drawn, shrink=0.7)
        self.dots(axes, self.still)
        self.save(figure, "5_continuous")

    def window(self) -> None:
        """The weights of DtoC around the shown point."""
        x, y = (int(value) for value in self.still[self.shown])
        reach = 4
        whole = self.full_map()
        rows = torch.arange(max(0, y - reach), min(self.size[0], y + reach + 1))
        columns = torch.arange(max(0, x - reach), min(self.size[1], x + reach + 1))
        part = whole[rows][:, columns]
        squares = (rows[:, None] - y) ** 2 + (columns[None] - x) ** 2
        weights = (part - squares).flatten().softmax(0).reshape(part.shape)
        figure, axes = self.figure(f"weights of the pixels around point {self.shown + 1}", 0.86)
        extent = (columns[0], columns[-1] + 1, rows[-1] + 1, rows[0])
        drawn = axes.imshow(weights, cmap="magma", extent=[int(end) for end in extent])
        figure.colorbar(drawn, shrink=0.8)
        for point, mark, colour, name in (
            (self.still[self.shown], "+", "#58a6ff", "discrete"),
            (self.moved[self.shown].detach(), "x", "#ffffff", "DtoC"),
        ):
            axes.scatter(*(point + 0.5), marker=mark, s=120, c=colour, label=name)
        axes.legend(loc="upper right", fontsize=8, facecolor="#555555", labelcolor="white")
        self.save(figure, "6_window")

    def shifts(self) -> None:
        moved = self.moved.detach() - self.still
        furthest = float(moved[self.labels >= 0].norm(dim=-1).max())
        figure, axes = self.figure(
            f"what DtoC does, enlarged {ARROWS} times; the longest is {furthest:.3f} pixels"
        )
        self.show_image(axes, 0.7)
        for (x, y), (dx, dy), label in zip(
            (self.still + 0.5).tolist(), (moved * ARROWS).tolist(), self.labels, strict=True
        ):
            if label >= 0:
                style = {"arrowstyle": "-|>", "color": COLOURS[int(label)], "lw": 1.8}
                axes.annotate("", (x + dx, y + dy), (x, y), arrowprops=style)
                axes.scatter(x, y, s=16, c=COLOURS[int(label)], edgecolors="white", linewidths=0.6)
        self.save(figure, "7_shifts")

    def gradient(self) -> None:
        """The derivative of the shown point's x and y with respect to every token."""
        spread = float(self.map.max() - self.map.min())
        slopes = [
            torch.autograd.grad(self.moved[self.shown, axis], self.values, retain_graph=True)[0]
            for axis in (0, 1)
        ]
        most = float(torch.stack(slopes).abs().max()) * spread
        figure = Figure(figsize=(7.6, 4.1), dpi=110, layout="constrained")
        pair = figure.subplots(1, 2)
        for axes, slope, name in zip(pair, slopes, "xy", strict=True):
            drawn = axes.imshow(
                slope.reshape(self.map.shape) * spread, cmap="RdBu_r", vmin=-most, vmax=most
            )
            axes.set_title(f"of {name}", fontsize=10, loc="left")
            axes.set_xticks([])
            axes.set_yticks([])
        figure.colorbar(drawn, ax=pair, shrink=0.8, label="pixels per range of the map")
        figure.suptitle(
            f"gradient of point {self.shown + 1} with respect to each token", fontsize=10
        )
        self.save(figure, "8_gradient")

    def mask(self) -> None:
        figure, axes = self.figure("SAM's mask from text and points")
        self.show_image(axes)
        height, width = self.size
        tint = np.zeros((height, width, 4))
        tint[self.segment.mask] = (0.0, 0.85, 1.0, 0.5)
        axes.imshow(tint, extent=(0, width, height, 0))
        self.dots(axes, self.moved)
        self.save(figure, "9_mask")


def wide_part(image: np.ndarray) -> np.ndarray:
    """The middle of an image, about three quarters as tall as wide."""
    height, width = image.shape[:2]
    tall = min(height, int(width * 0.76))
    top = (height - tall) // 2
    return np.ascontiguousarray(image[top : top + tall])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("image")
    parser.add_argument("question")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("sasp"))
    given = parser.parse_args()
    reader = load_read(given.model)
    image = wide_part(load_pixels(given.image))
    answer: Answer = reader.segment(image, given.question, answer=POSITIVE_ANSWER)
    given.out.mkdir(parents=True, exist_ok=True)
    steps = Steps(image, answer.segments[0], reader.model.config.sasp_params, given.out)
    steps.input_image(given.question.partition(" Please")[0])
    for draw in (
        steps.similarity,
        steps.classes,
        steps.points,
        steps.continuous,
        steps.window,
        steps.shifts,
        steps.gradient,
        steps.mask,
    ):
        draw()


if __name__ == "__main__":
    main()

"""A page of training draws: what the model will see, to look at before it is trained.

    python -m dataset.preview --config configs/read_7b.yaml --dataset_dir DIR --draws 24

Takes the flags of `train_read.py` (those about data count) and writes one HTML file that needs
nothing else. A draw that cannot be read is shown as its message.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from tqdm import tqdm

from dataset import flag_checks
from utils.cli import parser
from utils.cli.entry_point import cli
from utils.cli.flags import NOT_NEGATIVE, POSITIVE, option
from utils.cli.options import TrainOptions
from utils.cli.parser import Problem
from utils.errors import InputError
from utils.files import write_file
from utils.protocol.constants import IM_END_TOKEN, IM_START_TOKEN, IMAGE_TOKEN, SEG_TOKEN
from utils.reports.visualize import embed_png, enlarge, fit

if TYPE_CHECKING:
    from dataset.loader import SampleSource
    from utils.protocol.batch import Sample

ASSETS = Path(__file__).parent / "assets"
LONGEST, SHORTEST = 420, 260
"""Images are reduced to the first in pixels; small ones are enlarged to the second."""
COLOURS = (
    (0, 200, 255),
    (255, 80, 200),
    (255, 176, 32),
    (110, 220, 90),
    (160, 120, 255),
    (255, 96, 80),
)
TINT = 120
"""Opacity of a mask's inside, of 255."""

_TURNS = re.compile(
    r"(?:USER: |\[INST\] )(.*?)(?: ASSISTANT: ?| \[/INST\] ?)(.*?)(?: ?</s>|$)", re.S
)
_SYSTEM = re.compile(r"<<SYS>>.*?<</SYS>>\s*", re.S)
_IMAGE = re.compile(f"(?:{IM_START_TOKEN})?{IMAGE_TOKEN}(?:{IM_END_TOKEN})?\\s*")


@dataclass(frozen=True)
class _PreviewFlags:
    """Preview."""

    draws: int = option(24, "how many draws are shown", limit=POSITIVE)
    first: int = option(0, "number of the first one", limit=NOT_NEGATIVE)
    out: str = option("draws.html", "page to write")


@dataclass(frozen=True)
class PreviewOptions(TrainOptions, _PreviewFlags):
    """Show draws of the training mixture."""

    def problems(self) -> list[Problem]:
        """Everything that keeps the draws from being shown."""
        problems = flag_checks.data_folder(self) + flag_checks.training(self)
        return problems + flag_checks.template_file(self)


@dataclass(frozen=True)
class Expression:
    """One conversation of a draw.

    Args:
        turns: (question, answer) pairs, without the tokens of the prompt format.
        colour: of its mask in CSS, "" if it has none.
        layer: its mask as an image to lay over the image, "" if it has none.
    """

    turns: list[tuple[str, str]]
    colour: str = ""
    layer: str = ""


@dataclass(frozen=True)
class Preview:
    """One draw, ready for the page.

    Args:
        index: its number.
        source: the part of the mixture it was taken from.
        kind: see `Sample`.
        path: of the image.
        size: (W, H) of the image.
        image: as data URI.
        expressions: one for each conversation.
        error: why it cannot be shown, "" if it can.
    """

    index: int
    source: str
    kind: str = ""
    path: str = ""
    size: tuple[int, int] = (0, 0)
    image: str = ""
    expressions: list[Expression] = field(default_factory=list)
    error: str = ""


def turns_of(prompt: str) -> list[tuple[str, str]]:
    """The (question, answer) pairs of a full prompt."""
    found = _TURNS.findall(prompt)
    return [(_IMAGE.sub("", _SYSTEM.sub("", q)).strip(), a.strip()) for q, a in found]


def layer(mask: np.ndarray, size: tuple[int, int], colour: tuple[int, int, int]) -> np.ndarray:
    """A mask as a layer to lay over the image.

    Args:
        mask: uint8[H, W] of 0/1.
        size: (H', W') of the layer.
        colour: RGB.

    Returns:
        uint8[H', W', 4], RGBA: tinted inside, opaque along the contour, clear elsewhere.
    """
    height, width = size
    region = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    painted = np.zeros((height, width, 4), np.uint8)
    painted[region > 0] = (*colour, TINT)
    outlines, _ = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(painted, outlines, -1, (255, 255, 255, 230), 3)
    cv2.drawContours(painted, outlines, -1, (*colour, 255), 1)
    return painted


def show(sample: Sample, index: int, source: str) -> Preview:
    """A sample as it appears on the page."""
    image = fit(sample.image, LONGEST)
    image = enlarge(image, max(1, round(SHORTEST / min(image.shape[:2]))))
    size = (image.shape[0], image.shape[1])
    masks = iter(sample.masks)
    expressions = []
    for number, prompt in enumerate(sample.conversations):
        turns, colour = turns_of(prompt), COLOURS[number % len(COLOURS)]
        merged = np.zeros(sample.image.shape[:2], np.uint8)
        count = sum(answer.count(SEG_TOKEN) for _, answer in turns)
        for _ in range(count):
            merged |= next(masks)
        drawn = embed_png(layer(merged, size, colour)) if count else ""
        expressions.append(
            Expression(turns, "rgb({}, {}, {})".format(*colour) if count else "", drawn)
        )
    shown = (sample.image.shape[1], sample.image.shape[0])
    kind, path = sample.kind, sample.image_path
    return Preview(index, source, kind, path, shown, embed_png(image), expressions)


def draw_all(source: SampleSource, first: int, count: int) -> list[Preview]:
    """Draws number `first` and following; a broken one holds its message."""
    from dataset.mixture import Mixture

    drawn = []
    for index in tqdm(range(first, first + count), desc="draws", unit="draw"):
        part = source.names[source.choice(index)] if isinstance(source, Mixture) else ""
        try:
            drawn.append(show(source.sample(index), index, part))
        except InputError as error:
            drawn.append(Preview(index, part, error=str(error)))
    return drawn


def render(drawn: Sequence[Preview], intro: str) -> str:
    """The page as HTML text."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    most = max((len(entry.expressions) for entry in drawn), default=0)
    counts = Counter(entry.source for entry in drawn).most_common()
    page = environment.get_template("preview.html.j2")
    return page.render(drawn=drawn, intro=intro, most=most, counts=counts)


@cli
def main(argv: list[str] | None = None) -> None:
    """The command line of `python -m dataset.preview`."""
    options = parser.parse(PreviewOptions, argv, prog="python -m dataset.preview", show=False)
    from dataset.training import training_set

    drawn = draw_all(training_set(options), options.first, options.draws)
    rates = ", ".join(f"{name} {rate:g}" for name, rate in flag_checks.mixture(options).items())
    intro = (
        f"Draws {options.first} to {options.first + options.draws - 1} with seed {options.seed} "
        f"from {options.dataset_dir}. Rates: {rates}. Templates: {options.templates}."
    )
    out = write_file(options.out, render(drawn, intro), "give another --out")
    broken = sum(bool(entry.error) for entry in drawn)
    print(f"{len(drawn)} draws{f', {broken} of them broken' if broken else ''}: {out}")


if __name__ == "__main__":
    raise SystemExit(main())

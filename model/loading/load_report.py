"""Where every part of a model came from, as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

PARTS = (
    ("embeddings", ("model.embed_tokens.", "lm_head.")),
    ("language model", ("model.layers.", "model.norm.")),
    ("projector", ("model.mm_projector.",)),
    ("CLIP", ("model.vision_tower.",)),
    ("SAM encoder", ("model.visual_model.image_encoder.", "model.visual_model.prompt_encoder.")),
    ("SAM decoder", ("model.visual_model.mask_decoder.",)),
    ("projection head", ("model.text_hidden_fcs.",)),
)
"""Parts in the order of the report, and the names that begin their tensors."""


@dataclass(frozen=True)
class Origin:
    """Tensors of one part that came from one place.

    Args:
        part: a name of `PARTS`.
        tensors, parameters: how many tensors and numbers.
        source: file or folder, or "newly initialised".
        why: a remark, empty where nothing needs one.
    """

    part: str
    tensors: int
    parameters: int
    source: str
    why: str = ""


@dataclass
class LoadReport:
    """The table.

    Args:
        origins: its rows.
        notes: sentences below it.
    """

    origins: list[Origin] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The table as aligned text, one string a line."""
        rows = [
            (o.part, str(o.tensors), count(o.parameters), o.source + (f" ({o.why})" * bool(o.why)))
            for o in self.origins
        ]
        head = ("part", "tensors", "parameters", "from")
        wide = [max(len(row[i]) for row in [head, *rows]) for i in range(3)]
        table = [
            f"{part:<{wide[0]}}  {tensors:>{wide[1]}}  {numbers:>{wide[2]}}  {source}"
            for part, tensors, numbers, source in [head, *rows]
        ]
        return [*table, *self.notes]

    def of(self, part: str) -> list[Origin]:
        """The rows of one part."""
        return [origin for origin in self.origins if origin.part == part]


def make_report(
    model: nn.Module,
    source: Mapping[str, Path | str],
    why: Mapping[str, str],
    notes: Iterable[str] = (),
) -> LoadReport:
    """Group the tensors of a model by part and place.

    Args:
        model: its state dict counts.
        source: name of a tensor -> its file, or a text such as "newly initialised".
        why: name of a part -> a remark for its rows.
        notes: sentences below the table.
    """
    state = model.state_dict()
    report = LoadReport(notes=list(notes))
    for part, prefixes in PARTS:
        places: dict[Path | str, list[str]] = {}
        for name in state:
            if name.startswith(prefixes):
                places.setdefault(source[name], []).append(name)
        for place, names in merged_places(places).items():
            numbers = sum(state[name].numel() for name in names)
            report.origins.append(Origin(part, len(names), numbers, place, why.get(part, "")))
    return report


def merged_places(places: Mapping[Path | str, list[str]]) -> dict[str, list[str]]:
    """Files of one folder become one place: "FOLDER: a.bin, b.bin" or "FOLDER: 5 files a … e"."""
    folders: dict[Path, dict[str, list[str]]] = {}
    merged: dict[str, list[str]] = {}
    for place, names in places.items():
        if isinstance(place, Path):
            folders.setdefault(place.parent, {})[place.name] = names
        else:
            merged[place] = names
    for folder, files in folders.items():
        inside = sorted(files)
        many = f"{len(inside)} files {inside[0]} … {inside[-1]}"
        text = ", ".join(inside) if len(inside) <= 2 else many
        merged[f"{folder}: {text}"] = [name for file in inside for name in files[file]]
    return merged


def count(number: int) -> str:
    """A number for people: 6.74 B, 131 M, 8.2 k, 12."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)

"""How the field scores masks: every published protocol as data.

Numbers under different protocols are not comparable, even of the same masks. A protocol says what
counts, not how it is counted: that is in `utils.evaluation.protocol_scores`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from utils.errors import InputError

AS_GIVEN = "as given"
LOWER_CASED = 'lower-cased, .?!" stripped'
TAGGED = "wrapped in <p>...</p>"
NOT_SAID = ""
TEXTS = {"as_given": AS_GIVEN, "lower_cased": LOWER_CASED, "tagged": TAGGED}
"""Name on the command line and in rows -> value of `Protocol.text`."""
SEGS = ("given", "generated")
ROW_OF_SEG = {"given": "read", "generated": "fprefcoco"}
"""How READ is asked -> the protocol of its published row: ReasonSeg and RefCOCO; FP-RefCOCO."""


@dataclass(frozen=True)
class Protocol:
    """What a published scorer counts.

    Args:
        name: short, for the command line.
        title: who scores so.
        empty_union: IoU of a question with no pixel in either mask; None: not known, such
            questions cannot be scored.
        ignore: pixels labelled 255 are "excluded" or "object".
        text: how the question reaches the model, one of `TEXTS`; "" is not said.
        expressions: "every" sentence about an object counts, or the "first" alone.
        objects: of one question, "united" in one mask or "matched" one to one.
        seg: `[SEG]` is "given" (teacher forced) or "generated"; "" does not matter.
        no_target: a question about nothing that is there counts by its "union", as any other, or
            by its "answer": 1 if nothing was predicted, else 0.
        no_target_pixels: a prediction of fewer pixels counts as empty.
    """

    name: str
    title: str
    empty_union: float | None = 1.0
    ignore: str = "excluded"
    text: str = NOT_SAID
    expressions: str = "every"
    objects: str = "united"
    seg: str = NOT_SAID
    no_target: str = "union"
    no_target_pixels: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "ignore": ("excluded", "object"),
            "text": (NOT_SAID, *TEXTS.values()),
            "expressions": ("every", "first"),
            "objects": ("united", "matched"),
            "seg": (NOT_SAID, *SEGS),
            "no_target": ("union", "answer"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}={getattr(self, name)!r}: choose among {values}")
        if self.objects == "matched" and (self.ignore == "object" or self.no_target_pixels):
            raise ValueError("objects='matched' goes with ignore='excluded', no_target_pixels=0")


_VISIONREASONER = Protocol(
    "visionreasoner",
    "Seg-Zero, VisionReasoner",
    empty_union=0.0,
    ignore="object",
    text=LOWER_CASED,
    expressions="first",
    seg="generated",
)

PRESETS = {
    protocol.name: protocol
    for protocol in (
        Protocol("read", "READ, this project", text=AS_GIVEN, seg="given"),
        Protocol("lisa", "LISA, LENS", text=AS_GIVEN, seg="given"),
        Protocol("fprefcoco", "SESAME, READ on FP-RefCOCO", text=AS_GIVEN, seg="generated"),
        _VISIONREASONER,
        replace(
            _VISIONREASONER,
            name="visionreasoner_gref",
            title="VisionReasoner on gRefCOCO",
            no_target="answer",
        ),
        Protocol("star", "StAR", ignore="object", text=AS_GIVEN),
        Protocol("xsam", "X-SAM, X2SAM", empty_union=None, text=TAGGED),
        Protocol("gres", "GRES (ReLA) on gRefCOCO", no_target="answer"),
        Protocol("gsva", "GSVA on gRefCOCO", no_target="answer"),
        Protocol("muse", "PixelLM on MUSE", objects="matched", seg="generated"),
    )
}


def choose_protocols(
    names: Sequence[str] | None, no_target_pixels: int | None = None
) -> list[Protocol]:
    """Presets by name, all of them by default.

    Args:
        names: keys of `PRESETS`.
        no_target_pixels: replaces that of GRES and GSVA, some of whose scripts use 50.

    Raises:
        InputError: an unknown name.
    """
    unknown = [name for name in names or () if name not in PRESETS]
    if unknown:
        near = get_close_matches(unknown[0], PRESETS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(
            f"--protocols: unknown protocol {', '.join(unknown)}{hint}; known: {', '.join(PRESETS)}"
        )
    protocols = [PRESETS[name] for name in names or PRESETS]
    if no_target_pixels is None:
        return protocols
    return [
        replace(one, no_target_pixels=no_target_pixels) if one.name in ("gres", "gsva") else one
        for one in protocols
    ]


@dataclass(frozen=True)
class Asked:
    """How predictions were made, as far as it is known.

    Args:
        seg: one of `SEGS`, "" if not known.
        text: one of `TEXTS`' values, "" if not known.
        counted: the only protocol names that apply, if pixels were counted before; else None.
        several_objects: a question is about several objects.
        united_truth: the true mask of such a question is one mask of them all.
        united_predictions: such a question has one predicted mask.
        empty_unions: a question has no pixel in either mask.
        plain_text: every question is the same when lower-cased and stripped.
    """

    seg: str = NOT_SAID
    text: str = NOT_SAID
    counted: tuple[str, ...] | None = None
    several_objects: bool = False
    united_truth: bool = False
    united_predictions: bool = False
    empty_unions: bool = False
    plain_text: bool = False


def why_unsuited(protocol: Protocol, asked: Asked) -> str:
    """Why a protocol does not apply to what was predicted; "" if it does."""
    if asked.counted is not None and protocol.name not in asked.counted:
        return f"the file holds pixel counts made by {asked.counted[0]}, and no masks"
    if protocol.seg and asked.seg and protocol.seg != asked.seg:
        needed = {"given": "given [SEG] (teacher forced)", "generated": "generated [SEG]"}
        return f"needs answers with {needed[protocol.seg]}; these have {needed[asked.seg]}"
    alike = {protocol.text, asked.text} == {AS_GIVEN, LOWER_CASED} and asked.plain_text
    if protocol.text and asked.text and protocol.text != asked.text and not alike:
        return f"needs answers to questions {protocol.text}; these were asked {asked.text}"
    if protocol.objects == "matched" and asked.united_truth:
        return "needs one true mask per object; the truth has them united"
    if protocol.objects == "matched" and asked.several_objects and asked.united_predictions:
        return "needs one predicted mask per object; the predictions have them united"
    if protocol.empty_union is None and asked.empty_unions:
        return "how it counts an empty union is not known, and there are some"
    return ""


def unknown_of(protocol: Protocol, asked: Asked) -> str:
    """What has to be taken on trust for a protocol that applies; "" if nothing has."""
    unknown = [
        what
        for what, needed, known in (
            (f"[SEG] was {protocol.seg}", protocol.seg, asked.seg),
            (f"questions were asked {protocol.text}", protocol.text, asked.text),
        )
        if needed and not known
    ]
    return f"if {' and '.join(unknown)}" if unknown else ""


_SHOWN: dict[str, dict[Any, str]] = {
    "empty_union": {None: "not known", 0.0: "0", 1.0: "1"},
    "text": {NOT_SAID: "not said"},
    "seg": {NOT_SAID: "any"},
    "no_target": {"union": "by union", "answer": "by answer"},
}


def cells_of(protocol: Protocol) -> dict[str, str]:
    """What a protocol says, as text: field -> cell."""
    values = {f.name: getattr(protocol, f.name) for f in fields(Protocol) if f.name != "name"}
    return {
        name: _SHOWN.get(name, {}).get(value, str(value))
        for name, value in values.items()
        if name != "title"
    }


def differing_cells(protocols: Sequence[Protocol]) -> dict[str, list[str]]:
    """Only what differs between protocols: field -> one cell each."""
    cells = [cells_of(protocol) for protocol in protocols]
    columns = {name: [one[name] for one in cells] for name in cells[0]} if cells else {}
    return {name: column for name, column in columns.items() if len(set(column)) > 1}

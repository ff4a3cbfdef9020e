"""What one visitor has open: an image, the dialogue about it, and the last answer's masks.

Points and places are (x, y) in pixels of the original image.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.inference.answer import Answer, Segment, answer_of, segments_of
from model.inference.encoded_image import EncodedImage
from model.inference.seg_states import SegStates, resegment, segment_from_points
from model.sasp import NEGATIVE, NEUTRAL, POSITIVE, SaspParams
from utils.errors import InputError
from utils.protocol.conversation import with_mask_request
from web import limits as allowed
from web.drawing import Renderer
from web.engine import Engine
from web.limits import Limits
from web.uploads import remove

NEAR = 0.04
"""How far from a click a point may be that it removes, in parts of the image's longer side."""
MODES = ("positive", "negative", "remove")
SET_ASIDE = "There is no answer to change. Please open an image and ask about it."
NO_LOGITS = np.zeros((0, 0), np.float32)


@dataclass
class Edits:
    """What a visitor changed about the points of a layer.

    Args:
        added: (x, y, label).
        removed: numbers of SasP's points.
    """

    added: list[tuple[float, float, int]] = field(default_factory=list)
    removed: set[int] = field(default_factory=set)


class Session:
    """One visitor's image and answer. Methods may be called from any thread.

    Args:
        engine: shared by all visitors.
        limits: of what is accepted.
    """

    def __init__(self, engine: Engine, limits: Limits):
        self.engine = engine
        self.limits = limits
        self.drawn: deque[Path] = deque()
        self._lock = threading.RLock()
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            while self.drawn:
                remove(self.drawn.popleft())
            self.token = secrets.token_urlsafe(24)
            self.source: str | None = None
            self.renderer: Renderer | None = None
            self.size = (0, 0)
            self.dialogue: list[tuple[str, str]] = []
            self.pending_question = ""
            self.answer: Answer | None = None
            self.shown: list[int] = []
            self.chosen = 0
            self._opened: EncodedImage | None = None
            self._states: SegStates | None = None
            self._base: list[Segment] = []
            self._edits: dict[int, Edits] = {}

    # --- an image, and questions about it ------------------------------------------------------

    def open(self, source: str) -> None:
        """Open an uploaded file; the one that is open stays as it is.

        Raises:
            InputError: it cannot be used; nothing is open then.
        """
        if source == self.source:
            return
        self.close()
        image = allowed.read_upload(source, self.limits)
        opened, renderer = self.engine.open(image), Renderer(image)
        with self._lock:
            self.source, self.size = source, opened.size
            self._opened, self.renderer = opened, renderer

    def ask(
        self,
        question: Any,
        settings: Mapping[str, Any],
        force_seg: bool = False,
        ask_for_mask: bool = False,
    ) -> Iterator[str]:
        """Ask about the open image; the answer is there when the iterator ends.

        `pending_question` is the one that is being asked, `dialogue` what was asked and answered.

        Args:
            question: as typed.
            settings: see `web.limits.read_settings`.
            force_seg: a mask even when the model answers without one.
            ask_for_mask: end the question as the evaluation does; see `with_mask_request`.

        Yields:
            the words so far.

        Raises:
            InputError: no image, or the question or a setting cannot be used.
        """
        text = allowed.read_question(question, self.limits)
        self.pending_question = text = with_mask_request(text) if ask_for_mask else text
        params = self._params(settings)
        opened = self._opened
        if opened is None:
            raise InputError("Please open an image first.")
        answer = None
        for piece in self.engine.stream_answer(
            opened, text, self.limits.tokens(opened.size), force_seg
        ):
            if isinstance(piece, Answer):
                answer = piece
            else:
                yield piece
        with self._lock:
            if answer is None or opened is not self._opened:
                raise InputError("Another image was opened meanwhile. Please ask again.")
            self.dialogue.append((text, answer.text))
            self._states, self._edits, self.chosen = answer.states, {}, 0
            self.shown = list(range(len(answer.segments)))
            self._base = [replace(segment, logits=NO_LOGITS) for segment in answer.segments]
            self.answer = replace(answer, segments=list(self._base), states=None)
            if self._states is not None and params != self.engine.params:
                self._decode(params)

    # --- the same answer in other ways ----------------------------------------------------------

    def set(self, settings: Mapping[str, Any]) -> None:
        """Make the masks with other SasP parameters; added points stay, removed ones come back.

        Raises:
            InputError: a setting cannot be used; nothing has changed then.
        """
        params = self._params(settings)
        with self._lock:
            if self._states is not None:
                self._decode(params)

    def click(self, place: Any, mode: str) -> None:
        """Add a point to the chosen layer, or remove the nearest one.

        Args:
            place: (x, y) on the shown image.
            mode: one of `MODES`.

        Raises:
            InputError: no answer, no such mode, no place in the image, or no point near it.
        """
        if mode not in MODES:
            raise InputError(f"A click can be {', '.join(MODES)}.")
        with self._lock:
            if self.renderer is None or not self._base:
                raise InputError(SET_ASIDE)
            x, y = self.renderer.in_image(*allowed.read_place(place, self.renderer.size))
            edits = self._edits.setdefault(self.chosen, Edits())
            if mode == "remove":
                self._remove_near(x, y, edits)
            elif len(edits.added) >= allowed.MOST_POINTS:
                raise InputError(f"There can be at most {allowed.MOST_POINTS} points.")
            else:
                edits.added.append((x, y, POSITIVE if mode == "positive" else NEGATIVE))
            self._apply_edits()

    def reset_points(self) -> None:
        """SasP's own points for the chosen layer."""
        with self._lock:
            self._edits.pop(self.chosen, None)
            self._apply_edits()

    def show(self, layers: Any) -> None:
        """Which layers are shown, and go into files."""
        with self._lock:
            self.shown = allowed.read_layers(layers, len(self._base))

    def choose(self, layer: Any) -> None:
        """Whose points and similarity map are shown, and are edited."""
        with self._lock:
            (self.chosen,) = allowed.read_layers([layer], len(self._base))

    def _params(self, settings: Mapping[str, Any]) -> SaspParams:
        return allowed.read_settings(settings, self.engine.params)

    def _decode(self, params: SaspParams) -> None:
        states = self._states
        if states is None:
            return
        with self.engine.lock:
            prediction = resegment(self.engine.model, states, params)
        indices = [segment.token_index for segment in self._base]
        self._base = [replace(s, logits=NO_LOGITS) for s in segments_of(prediction, indices)]
        self._edits = {n: Edits(edits.added) for n, edits in self._edits.items() if edits.added}
        self._apply_edits()

    def _apply_edits(self) -> None:
        """Put the answer together anew: SasP's masks, or those of edited points."""
        if self.answer is None:
            return
        segments = [
            self._edited(layer, self._edits[layer]) if layer in self._edits else segment
            for layer, segment in enumerate(self._base)
        ]
        self.answer = answer_of(self.answer.text, self.answer.token_ids, segments, self.size)

    def _edited(self, layer: int, edits: Edits) -> Segment:
        base, states = self._base[layer], self._states
        if states is None or not (edits.added or edits.removed):
            return base
        kept = [n for n in range(len(base.points)) if n not in edits.removed]
        added = np.array(edits.added, np.float32).reshape(-1, 3)
        points = np.concatenate([base.points[kept], added[:, :2]])
        labels = np.concatenate([base.point_labels[kept], added[:, 2].astype(np.int64)])
        with self.engine.lock:
            prediction = segment_from_points(
                self.engine.model,
                states[layer : layer + 1],
                torch.from_numpy(points)[None],
                torch.from_numpy(labels)[None],
            )
        (segment,) = segments_of(prediction, [base.token_index])
        return replace(segment, logits=NO_LOGITS)

    def _remove_near(self, x: float, y: float, edits: Edits) -> None:
        base = self._base[self.chosen]
        places = [
            (float(px), float(py), n)
            for n, ((px, py), label) in enumerate(zip(base.points, base.point_labels, strict=True))
            if label != NEUTRAL and n not in edits.removed
        ]
        places += [(px, py, -1 - n) for n, (px, py, _) in enumerate(edits.added)]
        far, number = min(
            ((px - x) ** 2 + (py - y) ** 2, number) for px, py, number in [*places, (1e9, 1e9, 0)]
        )
        if far**0.5 > NEAR * max(self.size):
            raise InputError("There is no point near the click.")
        if number < 0:
            del edits.added[-1 - number]
        else:
            edits.removed.add(number)

    # --- what is seen ---------------------------------------------------------------------------

    def overlay(self, with_points: bool = True) -> np.ndarray | None:
        """uint8[h, w, 3]: the image with the shown masks and the points of the chosen layer."""
        with self._lock:
            if self.renderer is None or self.answer is None:
                return None
            points_of = self.chosen if with_points and self._base else None
            return self.renderer.overlay(self.answer.segments, self.shown, points_of)

    def similarity(self) -> np.ndarray | None:
        """uint8[h, w, 3]: the similarity map of the chosen layer; None: there is none."""
        with self._lock:
            if self.renderer is None or not self._base:
                return None
            return self.renderer.similarity(self._base[self.chosen].similarity)

    def layers(self) -> tuple[list[Segment], list[int]]:
        """The masks of the answer, and which of them are shown."""
        with self._lock:
            return (list(self.answer.segments) if self.answer else []), list(self.shown)

"""Everything that `[SEG]` has to do with about a question: maps, points, masks, in one pass.

The language model answers once, SAM's image encoder runs once an image; the rest is made from what
the answers leave behind (`model.inference.seg_states`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from model.analysis.clip_word_maps import WordClip
from model.analysis.similarity_maps import Dialogue, clip_maps, layer_maps, llava_maps, sam_maps
from model.inference.answer import Answer
from model.inference.encoded_image import Item
from model.inference.prompts import Asked, PromptFormat
from model.inference.reader import Reader
from model.inference.seg_states import SegStates, resegment, segment_from_points
from model.outputs import MaskPrediction
from model.sam import SamModel
from utils.analysis.map_frames import PlacedMap
from utils.protocol.geometry import clip_box, sam_box

PROMPTS = ("text", "discrete", "points")
"""Values of `SaspParams.prompt`, names of masks in `utils.analysis.records.MASKS`."""


@dataclass(frozen=True, eq=False)
class Question:
    """A question about an image.

    Args:
        text: the user's turn.
        words: what is compared with CLIP's patches.
        forced_answer: given instead of the `SegProbe`'s, where that gives one; "": none.
    """

    text: str
    words: str
    forced_answer: str = ""


@dataclass(eq=False)
class SegTrace:
    """What a question led to.

    Maps are those of the answer's first `[SEG]`; points and masks are those of all of them.

    Args:
        answer: the model's.
        maps: name in `utils.analysis.records.MAPS` -> map; without a `[SEG]` "word" at most.
        layers: number of the layer -> `[SEG]` x LLaVA there.
        masks: name in `utils.analysis.records.MASKS` -> bool[H, W].
        points: float32[P, 2], (x, y) in pixels of the original image.
        labels: int64[P]: 1 positive, 0 negative, -1 none.
    """

    answer: Answer
    maps: dict[str, PlacedMap] = field(default_factory=dict)
    layers: dict[int, PlacedMap] = field(default_factory=dict)
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class SegProbe:
    """Asks a reader and looks at what happens.

    Args:
        reader: the model.
        answer: given words; None: the model generates its answer.
        layers: of `[SEG]` x LLaVA, besides the last one.
        word: CLIP with its text tower; None: no word x CLIP.
        pretrained_sam: SAM before training; None: no mask from the points alone.
        max_new_tokens: of a generated answer.
        batch_questions: rows of the language model's batch.
    """

    reader: Reader
    answer: str | None = None
    layers: Sequence[int] = ()
    word: WordClip | None = None
    pretrained_sam: SamModel | None = None
    max_new_tokens: int = 512
    batch_questions: int = 16

    def stream(
        self, items: Iterable[tuple[np.ndarray, list[Question]]]
    ) -> Iterator[list[SegTrace]]:
        """Look at each item, an image uint8[H, W, 3] with its questions.

        Raises:
            InputError: see `Reader.stream`.
        """
        asked: deque[tuple[np.ndarray, list[Question]]] = deque()

        def pairs() -> Iterator[Item]:
            for image, questions in items:
                asked.append((image, questions))
                yield image, [self._asked(question) for question in questions]

        answered = self.reader.stream(
            pairs(),
            self.answer,
            self.max_new_tokens,
            batch_questions=self.batch_questions,
            keep_states=True,
        )
        for answers in answered:
            image, questions = asked.popleft()
            yield self._look(image, questions, answers)

    def _asked(self, question: Question) -> Asked:
        if self.answer is None or not question.forced_answer:
            return question.text
        return question.text, question.forced_answer

    def _look(
        self, image: np.ndarray, questions: list[Question], answers: list[Answer]
    ) -> list[SegTrace]:
        """Everything about the answers to one image's questions."""
        seen = [self._masks_and_maps(answer) for answer in answers]
        box = clip_box(image.shape[:2], self._clip_side)
        if self.word is not None and questions:
            pixels = self.reader.model.views.clip(image)
            words = self.word.maps(pixels, [question.words for question in questions])
            for one, values in zip(seen, _arrays(words), strict=True):
                one.maps["word"] = PlacedMap(values, box)
        if self.layers:
            for layered, maps in self._layers(questions, seen):
                for layer, values in zip(self.layers, maps, strict=True):
                    layered.layers[layer] = PlacedMap(values, box)
        return seen

    @property
    def _clip_side(self) -> int:
        return int(self.reader.model.views.clip_processor.crop_size["height"])

    def _masks_and_maps(self, answer: Answer) -> SegTrace:
        seen, states = SegTrace(answer), answer.states
        if states is None:
            names = (*PROMPTS, "sam_points") if self.pretrained_sam is not None else PROMPTS
            seen.masks = dict.fromkeys(names, answer.mask)
            return seen
        model, size, inside = self.reader.model, states.image.size, states.image.sam_size
        params = model.config.sasp_params
        made = {p: resegment(model, states, replace(params, prompt=p)) for p in PROMPTS}
        seen.masks = {prompt: _union(masks) for prompt, masks in made.items()}
        chosen = made["points" if params.prompt == "text" else params.prompt]
        if self.pretrained_sam is not None:
            alone = segment_from_points(
                model, states, chosen.points, chosen.point_labels, False, self.pretrained_sam
            )
            seen.masks["sam_points"] = _union(alone)
        seen.points = chosen.points.flatten(0, 1).cpu().numpy()
        seen.labels = chosen.point_labels.flatten().cpu().numpy()
        first = SegStates(states.image, states.seg_hidden_states[:1])
        crop = clip_box(size, self._clip_side)
        frame = sam_box(size, inside, model.model.visual_model.sizes.image_size)
        seen.maps = {
            "clip": PlacedMap(_arrays(clip_maps(first))[0], crop),
            "llava": PlacedMap(_arrays(llava_maps(first))[0], crop),
            "sam": PlacedMap(_arrays(sam_maps(model, first))[0], frame),
        }
        return seen

    def _layers(
        self, questions: list[Question], seen: list[SegTrace]
    ) -> Iterator[tuple[SegTrace, np.ndarray]]:
        """For each answer with a `[SEG]` its maps float32[len(layers), side, side]."""
        prompt_format = PromptFormat(self.reader.model, self.reader.tokenizer)
        with_seg = [n for n, one in enumerate(seen) if one.answer.states is not None]
        for start in range(0, len(with_seg), self.batch_questions):
            chosen = with_seg[start : start + self.batch_questions]
            states = seen[chosen[0]].answer.states
            assert states is not None
            dialogues = [
                _dialogue(prompt_format, questions[n].text, seen[n].answer) for n in chosen
            ]
            features = states.image.clip_features
            maps = layer_maps(self.reader.model, features, dialogues, self.layers)
            yield from ((seen[n], _arrays(found)[0]) for n, found in zip(chosen, maps, strict=True))


def _dialogue(prompt_format: PromptFormat, question: str, answer: Answer) -> Dialogue:
    """The question with its answer up to the first `[SEG]`."""
    shared, own = prompt_format.prompt(question)
    index = answer.segments[0].token_index
    ids = [*shared, *own, *answer.token_ids[: index + 1]]
    return Dialogue(ids, [len(ids) - 1])


def _union(masks: MaskPrediction) -> np.ndarray:
    """bool[H, W]."""
    return (masks.logits > 0).any(dim=0).cpu().numpy()


def _arrays(maps: torch.Tensor) -> np.ndarray:
    return maps.float().cpu().numpy()

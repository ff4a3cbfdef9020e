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
from model.inference.prompts import PromptFormat, Question
from model.inference.reader import Reader
from model.inference.seg_states import resegment, segment_from_points
from model.outputs import MaskPrediction
from model.sam import SamModel
from utils.analysis.map_frames import PlacedMap
from utils.protocol.constants import PROMPTS
from utils.protocol.generation import GenerationOptions
from utils.protocol.geometry import clip_box, sam_box


@dataclass(frozen=True, eq=False)
class ProbeQuery:
    """A question about an image.

    Args:
        text: the user's turn.
        words: what is compared with CLIP's patches.
        forced_answer: given instead of the answer of `SegProbe.options`, if there is one; "": none.
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
        options: how to ask; states are kept whatever it says.
        layers: of `[SEG]` x LLaVA, besides the last one.
        word: CLIP with its text tower; None: no word x CLIP.
        pretrained_sam: SAM before training; None: no mask from the points alone.
    """

    reader: Reader
    options: GenerationOptions = GenerationOptions()
    layers: Sequence[int] = ()
    word: WordClip | None = None
    pretrained_sam: SamModel | None = None

    def stream(
        self, items: Iterable[tuple[np.ndarray, list[ProbeQuery]]]
    ) -> Iterator[list[SegTrace]]:
        """Look at each item, an image uint8[H, W, 3] with its questions.

        Raises:
            InputError: see `Reader.stream`.
        """
        under_way: deque[tuple[np.ndarray, list[ProbeQuery]]] = deque()

        def pairs() -> Iterator[Item]:
            for image, queries in items:
                under_way.append((image, queries))
                yield image, [self._asked(query) for query in queries]

        for answers in self.reader.stream(pairs(), self.options, keep_states=True):
            yield self._look(*under_way.popleft(), answers)

    def _asked(self, query: ProbeQuery) -> Question:
        if self.options.answer is None or not query.forced_answer:
            return query.text
        return query.text, query.forced_answer

    def _look(
        self, image: np.ndarray, queries: list[ProbeQuery], answers: list[Answer]
    ) -> list[SegTrace]:
        """Everything about the answers to one image's questions."""
        traces = [self._masks_and_maps(answer) for answer in answers]
        box = clip_box(image.shape[:2], self._clip_side)
        if self.word is not None and queries:
            pixels = self.reader.model.views.clip(image)
            words = self.word.maps(pixels, [query.words for query in queries])
            for trace, values in zip(traces, _arrays(words), strict=True):
                trace.maps["word"] = PlacedMap(values, box)
        if self.layers:
            for trace, maps in self._layers(queries, traces):
                for layer, values in zip(self.layers, maps, strict=True):
                    trace.layers[layer] = PlacedMap(values, box)
        return traces

    @property
    def _clip_side(self) -> int:
        return int(self.reader.model.views.clip_processor.crop_size["height"])

    def _masks_and_maps(self, answer: Answer) -> SegTrace:
        trace, states = SegTrace(answer), answer.states
        if states is None:
            names = (*PROMPTS, "sam_points") if self.pretrained_sam else PROMPTS
            trace.masks = dict.fromkeys(names, answer.mask)
            return trace
        model, image = self.reader.model, states.image
        params = model.config.sasp_params
        masks = {p: resegment(model, states, replace(params, prompt=p)) for p in PROMPTS}
        trace.masks = {prompt: _union(prediction) for prompt, prediction in masks.items()}
        own = masks["points" if params.prompt == "text" else params.prompt]
        if self.pretrained_sam is not None:
            alone = segment_from_points(
                model, states, own.points, own.point_labels, False, self.pretrained_sam
            )
            trace.masks["sam_points"] = _union(alone)
        trace.points = own.points.flatten(0, 1).cpu().numpy()
        trace.labels = own.point_labels.flatten().cpu().numpy()
        first = states[:1]
        crop = clip_box(image.size, self._clip_side)
        frame = sam_box(image.size, image.input_size, model.sam.sizes.image_size)
        trace.maps = {
            "clip": PlacedMap(_arrays(clip_maps(first))[0], crop),
            "llava": PlacedMap(_arrays(llava_maps(first))[0], crop),
            "sam": PlacedMap(_arrays(sam_maps(model, first))[0], frame),
        }
        return trace

    def _layers(
        self, queries: list[ProbeQuery], traces: list[SegTrace]
    ) -> Iterator[tuple[SegTrace, np.ndarray]]:
        """For each answer with a `[SEG]` its maps float32[len(layers), side, side]."""
        prompt_format = PromptFormat(self.reader.model, self.reader.tokenizer)
        with_seg = [n for n, trace in enumerate(traces) if trace.answer.states is not None]
        step = self.options.batch_questions
        for numbers in (with_seg[i : i + step] for i in range(0, len(with_seg), step)):
            states = traces[numbers[0]].answer.states
            assert states is not None
            dialogues = [
                _dialogue(prompt_format, queries[n].text, traces[n].answer) for n in numbers
            ]
            maps = layer_maps(self.reader.model, states.clip_features, dialogues, self.layers)
            yield from ((traces[n], _arrays(one)[0]) for n, one in zip(numbers, maps, strict=True))


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

"""`Reader`: ask questions about pictures, get words and masks.

CLIP, SAM's encoder and the decoding of all questions of a picture run once for
that picture.
"""

from __future__ import annotations

import io
import re
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase

from model.generation import generate
from model.outputs import MaskPrediction
from model.read_model import ReadForCausalLM
from model.seg_tokens import image_states, locate_seg
from utils.constants import IMAGE_TOKEN, SEG_TOKEN
from utils.conversation import POSITIVE_ANSWER, build_prompt, user_turn
from utils.errors import InputError
from utils.image_files import read_image, to_rgb
from utils.tokenization import END_OF_ANSWER, encode_batch, encode_prompt

NO_SEG = "no [SEG] in the answer"
EMPTY_MASK = "empty mask"
URL_TIMEOUT_S = 30
_AROUND_SEG = re.compile(rf"\s*{re.escape(SEG_TOKEN)}\s*([.,;:!?]?)")

ImageLike = str | Path | Image.Image | np.ndarray


@dataclass
class Segment:
    """One mask, from one `[SEG]`.

    Args:
        logits: float32[H, W] in the original frame.
        mask: bool[H, W], logits > 0.
        score: SAM's predicted IoU.
        similarity: float32[side, side], dot products of `[SEG]` with the image tokens.
        points: float32[P, 2], (x, y) in pixels of the original picture.
        point_labels: int64[P]: 1 positive, 0 negative, -1 neutral.
        token_index: place of the `[SEG]` in `Answer.token_ids`.
    """

    logits: np.ndarray
    mask: np.ndarray
    score: float
    similarity: np.ndarray
    points: np.ndarray
    point_labels: np.ndarray
    token_index: int


@dataclass
class Answer:
    """What the model says and shows.

    Args:
        text: the answer in words, `[SEG]` included.
        present: a `[SEG]` was given and its mask is not empty.
        reason: why there is no mask, else None.
        segments: one for each `[SEG]`, in order.
        token_ids: the answer's tokens, end token included.
        mask: bool[H, W], union of the segments.
    """

    text: str
    present: bool
    reason: str | None
    segments: list[Segment]
    token_ids: list[int]
    mask: np.ndarray


@dataclass
class _Reply:
    """An answer before its masks: states float[s, D] of its `[SEG]`, float[V, D] of the picture."""

    text: str
    token_ids: list[int]
    seg_index: list[int]
    seg_states: torch.Tensor
    image_states: torch.Tensor


class Reader:
    """A READ model with its tokenizer.

    Args:
        model: READ with its CLIP tower attached; may be in the middle of training.
        tokenizer: from `load_tokenizer`.
    """

    def __init__(self, model: ReadForCausalLM, tokenizer: PreTrainedTokenizerBase):
        self.model = model
        self.tokenizer = tokenizer

    def segment(
        self,
        image: ImageLike,
        question: str,
        answer: str | None = None,
        max_new_tokens: int = 512,
        force_seg: bool = False,
    ) -> Answer:
        """Ask one question about one picture; see `segment_batch`."""
        return self.segment_batch([(image, [question])], answer, max_new_tokens, force_seg)[0]

    @torch.no_grad()
    def segment_batch(
        self,
        items: Iterable[tuple[ImageLike, Sequence[str]]],
        answer: str | None = None,
        max_new_tokens: int = 512,
        force_seg: bool = False,
    ) -> list[Answer]:
        """Ask several questions about several pictures.

        Args:
            items: pairs of a picture (path, URL, PIL image or uint8[H, W, 3] RGB) and questions.
                A question is used as typed; the user turn is `<image>`, a line feed, the question.
            answer: given words instead of generated ones ("teacher forced").
            max_new_tokens: most tokens of a generated answer (greedy decoding).
            force_seg: append the positive answer where the model gave no `[SEG]`.

        Returns:
            one `Answer` a question, in order.

        Raises:
            InputError: an unusable picture or question.
        """
        pairs = [(image, list(questions)) for image, questions in items]
        for question in (q for _, questions in pairs for q in questions):
            self._check_question(question)
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
        was_training = self.model.training
        self.model.eval()
        try:
            return [
                reply
                for image, questions in pairs
                for reply in self._ask(image, questions, answer, max_new_tokens, force_seg)
            ]
        finally:
            self.model.train(was_training)

    # --- one picture ------------------------------------------------------------------------

    def _ask(
        self,
        image: ImageLike,
        questions: list[str],
        answer: str | None,
        max_new_tokens: int,
        force_seg: bool,
    ) -> list[Answer]:
        if not questions:
            return []
        pixels = load_pixels(image)
        clip_pixels = self.model.views.clip(pixels)[None]
        features = self.model.encode_clip(clip_pixels)
        if answer is not None:
            replies = self._forced(questions, [answer] * len(questions), features)
        else:
            replies = self._generated(questions, features, max_new_tokens)
            if force_seg:
                self._append_positive(questions, replies, features)
        return self._with_masks(pixels, replies)

    def _prompts(self, questions: Sequence[str], answers: Sequence[str | None]) -> list[str]:
        config = self.model.config
        return [
            build_prompt([(user_turn(q), a)], config.conv_type, config.mm_use_im_start_end)
            for q, a in zip(questions, answers, strict=True)
        ]

    def _generated(
        self, questions: list[str], features: torch.Tensor, max_new_tokens: int
    ) -> list[_Reply]:
        prompts = self._prompts(questions, [None] * len(questions))
        encoded = encode_batch(prompts, self.tokenizer, padding="left")
        self._check_length(encoded["input_ids"].shape[1])
        device = self.model.device
        made = generate(
            self.model,
            encoded["input_ids"].to(device),
            encoded["attention_mask"].to(device),
            features,
            torch.zeros(len(questions), dtype=torch.int64, device=device),
            max_new_tokens,
        )
        return [
            _Reply(self._text(ids), ids, index, states, pictures)
            for ids, index, states, pictures in zip(
                made.token_ids, made.seg_index, made.seg_states, made.image_states, strict=True
            )
        ]

    def _forced(
        self, questions: Sequence[str], answers: Sequence[str], features: torch.Tensor
    ) -> list[_Reply]:
        prompts = self._prompts(questions, answers)
        openings = [
            len(encode_prompt(prompt, self.tokenizer))
            for prompt in self._prompts(questions, [None] * len(questions))
        ]
        encoded = encode_batch(prompts, self.tokenizer, padding="right")
        self._check_length(encoded["input_ids"].shape[1])
        device = self.model.device
        input_ids = encoded["input_ids"].to(device)
        states = self.model.prompt_states(
            input_ids,
            encoded["attention_mask"].to(device),
            features,
            torch.zeros(len(questions), dtype=torch.int64, device=device),
        )
        seg = locate_seg(input_ids, states.text_position, self.model.seg_token_id)
        pictures = image_states(states.hidden, states.image_start, features.shape[1])
        replies = []
        for row, opening in enumerate(openings):
            ids = encoded["input_ids"][row][encoded["attention_mask"][row]].tolist()
            mine = (seg.row == row) & (seg.column >= opening)
            replies.append(
                _Reply(
                    answers[row],
                    ids[opening:],
                    (seg.column[mine] - opening).tolist(),
                    states.hidden[row, seg.state_position[mine]],
                    pictures[row],
                )
            )
        return replies

    def _append_positive(
        self, questions: list[str], replies: list[_Reply], features: torch.Tensor
    ) -> None:
        """Replace replies without `[SEG]` by the same words followed by the positive answer."""
        silent = [n for n, reply in enumerate(replies) if not reply.seg_index]
        if not silent:
            return
        forced = self._forced(
            [questions[n] for n in silent],
            [f"{replies[n].text} {POSITIVE_ANSWER}".strip() for n in silent],
            features,
        )
        for n, reply in zip(silent, forced, strict=True):
            replies[n] = reply

    def _with_masks(self, pixels: np.ndarray, replies: list[_Reply]) -> list[Answer]:
        size = pixels.shape[:2]
        speaking = [reply for reply in replies if reply.seg_index]
        prediction = self._decode(pixels, speaking) if speaking else None
        answers, done = [], 0
        for reply in replies:
            end = done + len(reply.seg_index)
            places = zip(range(done, end), reply.seg_index, strict=True)
            segments = [
                self._segment(prediction, place, index)
                for place, index in places
                if prediction is not None
            ]
            done = end
            mask = np.zeros(size, dtype=bool)
            for segment in segments:
                mask |= segment.mask
            reason = NO_SEG if not segments else None if mask.any() else EMPTY_MASK
            answers.append(
                Answer(reply.text, reason is None, reason, segments, reply.token_ids, mask)
            )
        return answers

    def _decode(self, pixels: np.ndarray, replies: list[_Reply]) -> MaskPrediction:
        frame, input_size = self.model.views.sam(pixels)
        embedding = self.model.encode_sam(frame[None], [input_size])
        seg_states = torch.cat([reply.seg_states for reply in replies])
        pictures = torch.cat(
            [reply.image_states[None].expand(len(reply.seg_index), -1, -1) for reply in replies]
        )
        return self.model.predict_masks(
            seg_states,
            pictures,
            torch.zeros(len(seg_states), dtype=torch.int64, device=seg_states.device),
            embedding,
            [input_size],
            [pixels.shape[:2]],
        )[0]

    def _segment(self, prediction: MaskPrediction, place: int, token_index: int) -> Segment:
        logits = prediction.logits[place].float().cpu().numpy()
        similarity = prediction.similarity[place].float().cpu()
        side = round(len(similarity) ** 0.5)
        return Segment(
            logits=logits,
            mask=logits > 0,
            score=float(prediction.scores[place]),
            similarity=similarity.view(side, side).numpy(),
            points=prediction.points[place].cpu().numpy(),
            point_labels=prediction.point_labels[place].cpu().numpy(),
            token_index=token_index,
        )

    # --- text -------------------------------------------------------------------------------

    def _text(self, ids: list[int]) -> str:
        words = str(self.tokenizer.decode(ids, skip_special_tokens=False))
        # [SEG] swallows the white space around it when it is tokenized; put back what reads well.
        return _AROUND_SEG.sub(_spaced_seg, words.replace(END_OF_ANSWER, "")).strip()

    def _check_question(self, question: object) -> None:
        if not isinstance(question, str) or not question.strip():
            raise InputError(
                f"the question is {question!r}; expected a sentence such as "
                "'Which part lets the plane steer?'"
            )
        if IMAGE_TOKEN in question:
            raise InputError(
                f"the question {question!r} holds <image>, which stands for the picture and is "
                "added by itself; leave it out"
            )

    def _check_length(self, text_tokens: int) -> None:
        limit = self.model.config.max_position_embeddings
        needed = text_tokens + self.model.image_tokens - 1
        if needed > limit:
            raise InputError(
                f"the prompt takes {needed} tokens with its picture, the model has room for "
                f"{limit}; shorten the question"
            )


def _spaced_seg(found: re.Match[str]) -> str:
    return f" {SEG_TOKEN}{found[1]} "


def load_pixels(image: ImageLike) -> np.ndarray:
    """A picture of any accepted kind as uint8[H, W, 3] RGB.

    Args:
        image: path, http(s) URL, PIL image, or uint8[H, W, 3] RGB.

    Raises:
        InputError: it cannot be read, or is an array of another shape or dtype.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(
                f"the picture is {image.dtype}{list(image.shape)}; expected uint8[H, W, 3], RGB"
            )
        return np.ascontiguousarray(image)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        return _download(image)
    if isinstance(image, (str, Path)):
        return read_image(image)
    raise InputError(
        f"a picture is given as {type(image).__name__}; expected a path, a URL, a PIL image or "
        "uint8[H, W, 3]"
    )


def _download(url: str) -> np.ndarray:
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_S) as response:
            content = response.read()
    except (OSError, ValueError) as error:
        raise InputError(f"cannot fetch the picture {url}: {error}") from error
    return read_image(io.BytesIO(content), name=url)

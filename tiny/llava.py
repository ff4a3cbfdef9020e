"""Tiny LLaVA: projector and LLaMA trained on toy questions and answers, on frozen tiny CLIP.

Losses: cross-entropy of the answers, and two that READ's own training does not have. They tie the
dot product of an answer token's state with the image tokens' states (both after the final norm) to
the share of each patch that the thing spoken of covers:

* grounding: binary cross-entropy of scaled and shifted dot products;
* contrast: squared error of the dot products after min-max normalisation.

In full-size LLaVA and SESAME weights this similarity is meaningful already, and READ builds on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionModel, LlamaConfig, LlamaModel

from dataset.toy.scene import Thing
from tiny.clip import SIDE, WIDTH, normalise, patch_cover, patch_features
from tiny.corpus import NOTHING, Lesson, draw_lesson
from tiny.images import clip_frame
from tiny.schedule import Schedule
from tiny.training import Training
from utils.files import write_json
from utils.protocol.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from utils.protocol.conversation import build_prompt, user_turn
from utils.protocol.tokenization import encode_prompt, load_tokenizer

HIDDEN, LAYERS, HEADS, MLP = 128, 4, 4, 320
CONTEXT = 2048
STREAM_SCALE, NORM_SCALE = 32.0, 12.0
"""See `rescale`."""
LESSONS = 8
"""Questions about each image of a batch."""


class TinyLlava(nn.Module):
    """Projector, LLaMA and head under LLaVA-1.5's parameter names."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.model = LlamaModel(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=HIDDEN,
                intermediate_size=MLP,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                num_key_value_heads=HEADS,
                max_position_embeddings=CONTEXT,
                rms_norm_eps=1e-5,
                pad_token_id=0,
            )
        )
        self.model.mm_projector = nn.Sequential(
            nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN)
        )
        self.lm_head = nn.Linear(HIDDEN, vocabulary, bias=False)
        nn.init.normal_(self.lm_head.weight, std=0.02)


@dataclass
class Branches:
    """Several conversations per image that share their beginning, packed into one row.

    Row layout: shared text, V image tokens, conversation 1, conversation 2, … A conversation sees
    the shared beginning and itself, and counts its positions from the end of the beginning: the
    result is the same as of one row per conversation.

    Args:
        ids: int64[B, L], conversations only, 0 as padding.
        branch: int64[B, L]: number of the conversation, -1 on padding.
        position: int64[B, L].
        labels: int64[B, L]: the token to predict next, or -100.
        about: int64[B, L]: the thing that the predicted token speaks of, or `NOTHING`.
        first: int64[B, L]: 1 where the first word of an answer is predicted.
    """

    ids: torch.Tensor
    branch: torch.Tensor
    position: torch.Tensor
    labels: torch.Tensor
    about: torch.Tensor
    first: torch.Tensor


class Encoder:
    """Turns lessons into tokens, remembering what it has seen.

    Args:
        tokenizer: of the folder that is being written.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        ids = self._encode("", None)
        self.shared = ids[: ids.index(IMAGE_TOKEN_INDEX)]
        self._known: dict[tuple[str, tuple[str, ...]], tuple[list[int], list[int], list[int]]] = {}

    def _encode(self, question: str, answer: str | None) -> list[int]:
        prompt = build_prompt([(user_turn(question), answer)], use_im_start_end=False)
        return encode_prompt(prompt, self.tokenizer)

    def conversation(self, lesson: Lesson) -> tuple[list[int], list[int], list[int]]:
        """Tokens after the image, next-token labels, and which piece each label belongs to."""
        key = (lesson.question, lesson.answer)
        if key not in self._known:
            start = len(self.shared) + 1
            begin = len(self._encode(lesson.question, None)) - start
            ends = []
            for count in range(1, len(lesson.answer) + 1):
                text = "".join(lesson.answer[:count])
                ids = self._encode(lesson.question, text)[start:]
                ends.append(len(ids) - 1)
            labels = [IGNORE_INDEX] * len(ids)
            labels[begin - 1 : -1] = ids[begin:]
            piece = [sum(place + 1 >= end for end in ends[:-1]) for place in range(len(ids))]
            self._known[key] = ids, labels, piece
        return self._known[key]

    def pack(self, lessons: list[list[Lesson]]) -> Branches:
        rows = []
        for row in lessons:
            parts: list[list[int]] = [[], [], [], [], [], []]
            for number, lesson in enumerate(row):
                ids, labels, piece = self.conversation(lesson)
                begin = next(i for i, label in enumerate(labels) if label != IGNORE_INDEX)
                about = [
                    lesson.about[p] if label != IGNORE_INDEX else NOTHING
                    for p, label in zip(piece, labels, strict=True)
                ]
                first = [int(i == begin) for i in range(len(ids))]
                columns = (ids, [number] * len(ids), list(range(len(ids))), labels, about, first)
                for part, column in zip(parts, columns, strict=True):
                    part.extend(column)
            rows.append(parts)
        length = max(len(parts[0]) for parts in rows)
        fillings = (0, -1, 0, IGNORE_INDEX, NOTHING, 0)
        return Branches(
            *(
                torch.tensor([parts[n] + [fill] * (length - len(parts[n])) for parts in rows])
                for n, fill in enumerate(fillings)
            )
        )


def forward(
    llava: TinyLlava, shared: list[int], features: torch.Tensor, branches: Branches
) -> tuple[torch.Tensor, torch.Tensor]:
    """States after the final norm.

    Args:
        features: float32[B, V, WIDTH], CLIP's patch features.

    Returns:
        image states float32[B, V, HIDDEN] and text states float32[B, L, HIDDEN].
    """
    batch, cells = features.shape[:2]
    head = torch.tensor(shared).expand(batch, -1)
    begin = len(shared) + cells
    table = llava.model.embed_tokens
    embeds = torch.cat(
        [table(head), llava.model.mm_projector(features), table(branches.ids)], dim=1
    )
    position = torch.cat([torch.arange(begin).expand(batch, -1), branches.position + begin], dim=1)
    branch = torch.cat([torch.full((batch, begin), -2), branches.branch], dim=1)
    length = branch.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == -2)
    bias = torch.zeros(batch, 1, length, length)
    bias.masked_fill_(~(same & causal)[:, None], torch.finfo(torch.float32).min)
    states = llava.model(
        inputs_embeds=embeds, attention_mask=bias, position_ids=position, use_cache=False
    ).last_hidden_state
    return states[:, len(shared) : begin], states[:, begin:]


def losses(
    llava: TinyLlava,
    scale: nn.Parameter,
    image: torch.Tensor,
    text: torch.Tensor,
    branches: Branches,
    cover: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Cross-entropy, grounding and contrast; the last two over tokens that speak of a thing.

    Args:
        scale: float32[2], factor and shift of the dot products in the grounding loss.
        cover: float32[B, 4, V], share of each patch covered by each thing.
    """
    trained = branches.labels != IGNORE_INDEX
    logits = llava.lm_head(text[trained])
    result = {"ce": F.cross_entropy(logits, branches.labels[trained])}
    row, place = (branches.about != NOTHING).nonzero(as_tuple=True)
    similarity = torch.einsum("nd,nvd->nv", text[row, place], image[row])
    target = cover[row, branches.about[row, place]]
    result["grounding"] = F.binary_cross_entropy_with_logits(
        similarity * scale[0] + scale[1], target
    )
    low, high = similarity.amin(1, keepdim=True), similarity.amax(1, keepdim=True)
    normalised = (similarity - low) / (high - low + 1e-6)
    result["contrast"] = F.mse_loss(normalised, target)
    first = branches.first.bool()
    guess = llava.lm_head(text[first]).argmax(-1)
    result["first word"] = (guess == branches.labels[first]).float().mean()
    return result


def image_features(clip: CLIPVisionModel, pixels: np.ndarray) -> torch.Tensor:
    """float32[M, V, WIDTH] of uint8[M, S, S, 3], a hundred at a time."""
    with torch.no_grad():
        return torch.cat(
            [
                patch_features(clip, normalise(pixels[start : start + 100]))
                for start in range(0, len(pixels), 100)
            ]
        )


def draw_lessons(things: list[tuple[Thing, ...]], rng: np.random.Generator) -> list[list[Lesson]]:
    return [[draw_lesson(names, rng) for _ in range(LESSONS)] for names in things]


def train(out: Path, clip_folder: Path, schedule: Schedule) -> dict[str, float]:
    """Train; `out` holds the tokenizer and gets the rest of the model."""
    torch.manual_seed(schedule.seed)
    rng = np.random.default_rng(schedule.seed)
    clip = CLIPVisionModel.from_pretrained(clip_folder).eval()
    tokenizer = load_tokenizer(out)
    vocabulary = len(tokenizer) - 3
    data = clip_frame(schedule.images, schedule.seed, SIDE)
    new = clip_frame(schedule.unseen, schedule.seed + 1, SIDE)
    features = image_features(clip, data.pixels)
    cover = torch.from_numpy(patch_cover(data))
    encoder = Encoder(tokenizer)
    llava = TinyLlava(vocabulary).train()
    scale = nn.Parameter(torch.tensor([0.1, -1.0]))
    training = Training("llava", schedule, llava, [scale])
    for step in training.bar:
        chosen = rng.integers(0, schedule.images, schedule.batch)
        branches = encoder.pack(draw_lessons([data.things[i] for i in chosen], rng))
        image, text = forward(llava, encoder.shared, features[chosen], branches)
        parts = losses(llava, scale, image, text, branches, cover[chosen])
        training.step(parts["ce"] + parts["grounding"] + 2 * parts["contrast"], **parts)
        if step % 500 == 499:
            training.bar.write(f"{step + 1}: {evaluate(llava, scale, clip, encoder, new)}")
    measured = evaluate(llava, scale, clip, encoder, new)
    rescale(llava)
    write(llava, out, vocabulary, clip_folder)
    return measured


@torch.no_grad()
def evaluate(
    llava: TinyLlava, scale: nn.Parameter, clip: CLIPVisionModel, encoder: Encoder, images
) -> dict[str, float]:
    """On new images: the losses, the accuracy of the first word, and where the maps peak."""
    rng = np.random.default_rng(0)
    llava.eval()
    features, cover = image_features(clip, images.pixels), patch_cover(images)
    sums: dict[str, list[float]] = {}
    for start in range(0, len(images.pixels), 25):
        part = slice(start, start + 25)
        branches = encoder.pack(draw_lessons(images.things[part], rng))
        image, text = forward(llava, encoder.shared, features[part], branches)
        truth = torch.from_numpy(cover[part])
        parts = losses(llava, scale, image, text, branches, truth)
        row, place = ((branches.about != NOTHING) & branches.first.bool()).nonzero(as_tuple=True)
        peak = torch.einsum("nd,nvd->nv", text[row, place], image[row]).argmax(1)
        hit = truth[row, branches.about[row, place], peak] > 0.5
        parts["peak inside"] = hit.float().mean()
        for name, value in parts.items():
            sums.setdefault(name, []).append(value.item())
    llava.train()
    return {name: round(float(np.mean(values)), 4) for name, values in sums.items()}


def rescale(llava: TinyLlava) -> None:
    """Change the scale of some weights and of nothing that the model computes.

    Adam moves every weight by about the learning rate, however large the weight is. Here the
    embeddings come out of training as 0.03 and the head as 0.25, so READ's training would scramble
    all words long before the head had learned `[SEG]`; wide models do not have this problem.
    RMS norms do not see the scale of the residual stream: all that writes to it is multiplied by
    `STREAM_SCALE`. The final norm is multiplied by `NORM_SCALE` and the head divided by it: same
    logits, and the same similarity map after its min-max normalisation.
    """
    with torch.no_grad():
        writers = [llava.model.embed_tokens.weight, *llava.model.mm_projector[2].parameters()]
        for layer in llava.model.layers:
            writers += [layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight]
        for weight in writers:
            weight.mul_(STREAM_SCALE)
        llava.model.norm.weight.mul_(NORM_SCALE)
        llava.lm_head.weight.div_(NORM_SCALE)


def write(llava: TinyLlava, out: Path, vocabulary: int, clip_folder: Path) -> None:
    """Weights and configuration in the layout of a LLaVA-1.5 checkpoint."""
    state = {name: value.contiguous() for name, value in llava.state_dict().items()}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "intermediate_size": MLP,
        "max_position_embeddings": CONTEXT,
        "mm_hidden_size": WIDTH,
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": clip_folder.name,
        "model_type": "llava",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": vocabulary,
    }
    write_json(out / "config.json", config, indent=2)

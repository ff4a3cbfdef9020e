"""How much GPU memory a training needs: `python -m utils.memory CONFIG [--gpus N ...]`.

No weight is loaded: the parameters are those of the model on the meta device
(`model.loading.meta_model`). Per GPU, with W bytes a weight (2 in bf16 and fp16, 4 in fp32), P
parameters in all, T trained ones, N GPUs:

    weights      W * P; ZeRO-3: / N, and W for each parameter that is gathered at a time, of which
                 DeepSpeed keeps up to 1e9
    gradients    4 * T, the sums over the micro steps that every rank keeps in float32,
                 + 2 * W * T, handed over and reduced; the reduced half with ZeRO-2: / N.
                 ZeRO-3: W * T, those of one micro step, + 8 * T / N, the reduced sums in float32
                 and the optimiser's copy of them
    optimiser    AdamW's two moments, and a float32 copy of T if W is 2: 8 * T or 12 * T; / N
    activations  see `activations`: they depend on the batch, not on N

With ZeRO-3 a validation gathers all weights, W * P on every GPU, and keeps few activations.
CUDA's own context and the allocator's gaps come on top: leave about 3 GB, or 10 %. Without
`--vision_tower` or `--version` on this machine their sizes follow from the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.config import DTYPES
from model.loading.meta_model import Part, count_parts, training_model
from model.read_model import ReadForCausalLM
from utils.protocol.constants import IMAGE_POSITIONS

if TYPE_CHECKING:
    from utils.cli.options import TrainOptions

STAGES = (1, 2, 3)
GIB = 1024**3
MOST_GATHERED = 1_000_000_000
"""Parameters that ZeRO-3 holds gathered at most (stage3_max_live_parameters)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU."""

    weights: float
    gradients: float
    optimiser: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimiser + self.activations


def row_length(options: TrainOptions, model: ReadForCausalLM) -> int:
    """Positions of an image with the longest texts: its own V, and each expression's text."""
    text = options.model_max_length - IMAGE_POSITIONS
    return model.image_tokens + options.num_classes_per_sample * text


def activations(options: TrainOptions, model: ReadForCausalLM) -> float:
    """Bytes that the forward pass keeps or needs at its widest point, at the longest texts.

    B = batch_size rows of S = V + E * (model_max_length - 255) positions for E =
    num_classes_per_sample expressions, which share their image; W bytes a number. One layer
    keeps, a position, 8 D + 4 F numbers and 2 D float32 ones of its norms, (with
    `--attn_implementation eager` also 2 * heads * S attention weights, and S float32 ones).
    * With gradient checkpointing: the input of every layer, L * B * S * D * W, and one layer
      opened up; without: L layers opened up.
    * Logits, of text alone: B * (S - V) * vocabulary in W, in float32, and their gradient.
    * SAM's encoder, without gradients: one global attention of the batch (scores and softmax,
      heads * (h * w)^2) and its MLP. Masks: 4 float32 maps of the SAM frame for each expression.
    The larger of LLM and SAM's encoder counts, since the encoder is over when the LLM begins.
    """
    width = DTYPES[options.precision].itemsize
    llm, sam = model.config, model.model.visual_model.sizes
    length = row_length(options, model)
    tokens = options.batch_size * length
    per_token = width * (8 * llm.hidden_size + 4 * llm.intermediate_size) + 8 * llm.hidden_size
    if options.attn_implementation == "eager":
        per_token += (2 * width + 4) * llm.num_attention_heads * length
    kept = llm.num_hidden_layers * tokens * per_token
    if options.gradient_checkpointing:
        kept = llm.num_hidden_layers * tokens * llm.hidden_size * width + tokens * per_token
    text = options.batch_size * (length - model.image_tokens)
    logits = text * llm.vocab_size * (width + 4 + 4)
    cells = model.model.visual_model.prompt_encoder.image_embedding_size[0] ** 2
    scores = 2 * sam.num_heads * cells**2 if sam.global_attn_indexes else 0
    encoder = options.batch_size * width * (scores + 9 * sam.embed_dim * cells)
    masks = options.batch_size * options.num_classes_per_sample * 4 * 4 * sam.image_size**2
    return max(kept + logits, encoder) + masks


def quantised_bits(options: TrainOptions) -> int | None:
    """Bits of the language model's frozen layers, if they are quantised."""
    return 4 if options.load_in_4bit else 8 if options.load_in_8bit else None


def memory(options: TrainOptions, model: ReadForCausalLM, stage: int, gpus: int) -> Memory:
    """What each of `gpus` GPUs needs with a ZeRO stage; the formulas stand above.

    Args:
        model: of `training_model`.
    """
    parts = count_parts(model, quantised_bits(options))
    width = DTYPES[options.precision].itemsize
    weights = sum(part.weights for part in parts)
    trained = sum(part.trained for part in parts)
    if stage == 3:
        everything = sum(part.parameters for part in parts)
        gathered = min(MOST_GATHERED, everything) * weights / everything
        weights = weights / gpus + gathered * (1 - 1 / gpus)
    gradients = (4 + width) * trained + width * trained / (gpus if stage == 2 else 1)
    if stage == 3:
        gradients = width * trained + 8 * trained / gpus
    return Memory(
        weights=weights,
        gradients=gradients,
        optimiser=trained * (8 if width == 4 else 12) / gpus,
        activations=activations(options, model),
    )


def table_of_parts(parts: list[Part]) -> str:
    """One line a part: parameters and how many of them train."""
    total = Part("together", sum(p.parameters for p in parts), sum(p.trained for p in parts))
    lines = [f"{'part':<20}{'parameters':>16}{'trained':>16}"]
    for part in [*parts, total]:
        if part is total:
            lines.append("-" * 52)
        trained = f"{part.trained:,}" if part.trained else "-"
        lines.append(f"{part.name:<20}{part.parameters:>16,}{trained:>16}")
    return "\n".join(lines)


def table_of_memory(options: TrainOptions, counts: list[int], model: ReadForCausalLM) -> str:
    """One line for each ZeRO stage and number of GPUs, in GiB; `*` marks the stage of the run."""
    names = ("weights", "gradients", "optimiser", "activations", "total")
    lines = [f"{'ZeRO':>5}{'GPUs':>6}" + "".join(f"{name:>13}" for name in names)]
    for stage in STAGES:
        for count in counts:
            need = memory(options, model, stage, count)
            mark = "*" if stage == options.zero_stage else " "
            values = "".join(f"{getattr(need, name) / GIB:>13.2f}" for name in names)
            lines.append(f"{stage:>4}{mark}{count:>6}{values}")
    return "\n".join(lines)


def describe(options: TrainOptions, counts: list[int]) -> str:
    """Both tables and what they assume.

    Raises:
        InputError: see `training_model`.
    """
    model = training_model(options)
    whole = memory(options, model, 1, 1).weights / GIB
    checkpointing = "with" if options.gradient_checkpointing else "without"
    return "\n".join(
        [
            f"{options.version}, {options.precision}",
            "",
            table_of_parts(count_parts(model)),
            "",
            f"GiB on each GPU, {options.batch_size} images with {options.num_classes_per_sample} "
            f"expressions (rows of at most {row_length(options, model)} tokens), {checkpointing} "
            "gradient checkpointing:",
            "",
            table_of_memory(options, counts, model),
            "",
            "* the run's own --zero_stage. Computed, not measured: leave 10 % for CUDA and gaps.",
            f"With ZeRO-3 a validation gathers all weights, {whole:.2f} GiB, on each GPU; "
            "--no_eval needs no room for that.",
        ]
    )

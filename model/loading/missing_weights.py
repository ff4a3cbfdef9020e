"""What a checkpoint has not got: SAM and the projection of a plain LLaVA, rows for new tokens."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from model.loading.load_report import LoadReport, make_report
from model.loading.weight_file import load_sam_weights
from model.loading.weights import LoadResult
from model.read_model import TOWER_PREFIX, ReadForCausalLM
from utils.errors import InputError
from utils.protocol.constants import ADDED_TOKENS

SAM_PREFIX = "model.visual_model."
PROJECTION_PREFIX = "model.text_hidden_fcs."
FRESH_PREFIXES = (SAM_PREFIX, PROJECTION_PREFIX)
"""What a LLaVA checkpoint has not got: SAM comes from its own file, the projection is new."""

READ_CLASSES = ("READForCausalLM", "SESAMEForCausalLM", "ReadForCausalLM")
"""Classes whose checkpoints hold SAM and the projection."""

NEW = "newly initialised"


class WeightInitialiser:
    """Fills what is missing, and keeps a record of it for the report.

    Args:
        model: as `model.loading.weights.load_weights` left it.
        result: what that returned.
        version: the checkpoint, for messages.
    """

    def __init__(self, model: ReadForCausalLM, result: LoadResult, version: str | Path):
        self.model, self.result, self.version = model, result, version
        self.source: dict[str, Path | str] = dict(result.source)
        self.why: dict[str, str] = {}

    @property
    def is_read(self) -> bool:
        """Whether the checkpoint is a SESAME or READ one, as its class or its weights say."""
        known = set(getattr(self.model.config, "architectures", None) or ()) & set(READ_CLASSES)
        return bool(known) or any(name.startswith(FRESH_PREFIXES) for name in self.result.source)

    def complete(self, vision_pretrained: str | Path | None, use_released_param: bool) -> None:
        """Fill SAM and the projection where the checkpoint has none, or where that is asked for.

        Args:
            vision_pretrained: SAM's own file.
            use_released_param: false replaces the checkpoint's SAM and projection.

        Raises:
            InputError: tensors are missing that nothing provides.
        """
        replace_sam = not use_released_param and vision_pretrained is not None
        replaced: tuple[str, ...] = () if use_released_param else (PROJECTION_PREFIX,)
        replaced += (SAM_PREFIX,) if replace_sam else ()
        fresh = replaced if self.is_read else FRESH_PREFIXES
        self.refuse({name for name in self.result.missing if not name.startswith(fresh)})
        asked = "--no_use_released_param"
        absent = "the checkpoint has none"
        if replace_sam or self._lacks(SAM_PREFIX):
            if vision_pretrained is None:
                raise InputError(
                    f"{self.version} holds no SAM weights: name SAM's checkpoint with "
                    "--vision_pretrained (sam_vit_h_4b8939.pth of the segment-anything project)"
                )
            reason = f"--vision_pretrained: {asked if replace_sam else absent}"
            for name in load_sam_weights(self.model.model.visual_model, vision_pretrained):
                self.source[SAM_PREFIX + name] = Path(vision_pretrained)
            self.why |= {"SAM encoder": reason, "SAM decoder": reason}
        elif not use_released_param:
            self.why["SAM decoder"] = f"{asked}: kept, as no --vision_pretrained replaces it"
        if not use_released_param or self._lacks(PROJECTION_PREFIX):
            for layer in self.model.model.text_hidden_fcs[0]:
                if isinstance(layer, torch.nn.Linear):
                    layer.reset_parameters()
            for name in self.model.state_dict():
                if name.startswith(PROJECTION_PREFIX):
                    self.source[name] = NEW
            self.why["projection head"] = absent if use_released_param else asked

    def refuse(self, lost: set[str]) -> None:
        """Raise an error if anything is lost.

        Raises:
            InputError: names what is missing and how to go on.
        """
        if not lost:
            return
        if self.is_read:
            remedy = (
                "Expected a complete READ or SESAME checkpoint; copy its files again (SAM's "
                "decoder and the projection may start afresh: train_read.py "
                "--no_use_released_param)"
            )
        else:
            remedy = (
                "Expected a READ or SESAME checkpoint; a plain LLaVA has to be trained first "
                "(train_read.py --version)"
            )
        raise InputError(
            f"{self.version} lacks {len(lost)} weights that READ needs: {some(lost)}. " + remedy
        )

    def resize_embeddings(self, vocabulary: int) -> None:
        """Make room for the added tokens; new rows are the mean of the old ones."""
        model = self.model
        old = model.get_input_embeddings().weight.shape[0]
        if old >= vocabulary:
            self.why["embeddings"] = f"all {old} rows"
            return
        for layer in (model.model.embed_tokens, model.lm_head):
            weight = layer.weight.data
            fresh = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
            layer.weight = torch.nn.Parameter(
                torch.cat([weight, fresh.expand(vocabulary - old, -1)]), layer.weight.requires_grad
            )
        model.model.embed_tokens.num_embeddings = vocabulary
        model.lm_head.out_features = vocabulary
        model.config.vocab_size = model.model.vocab_size = vocabulary
        self.why["embeddings"] = (
            f"{old} rows; {vocabulary - old} rows newly initialised for {', '.join(ADDED_TOKENS)}: "
            "the mean of the others"
        )

    def report(self) -> LoadReport:
        """The table of all parts, CLIP included."""
        tower = self.model.model.vision_tower
        place = "not loaded" if tower is None else str(tower.source)
        for name in self.model.state_dict():
            if name.startswith(TOWER_PREFIX):
                self.source[name] = place
            else:
                self.source.setdefault(name, str(self.version))
        notes = []
        known = [name for name in self.result.unused if is_expected(name)]
        if known:
            notes.append(
                f"not needed from the checkpoint: {len(known)} tensors (rotary buffers are "
                "computed, CLIP comes from its own folder)"
            )
        if odd := set(self.result.unused) - set(known):
            notes.append(f"ignored, READ has no place for them: {some(odd)}")
        return make_report(self.model, self.source, self.why, notes)

    def _lacks(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self.result.missing)


def is_expected(name: str) -> bool:
    """Whether checkpoints may hold this tensor although nobody reads it."""
    return name.endswith("rotary_emb.inv_freq") or name.startswith(TOWER_PREFIX)


def some(names: Collection[str], most: int = 8) -> str:
    """The first few names of a sorted list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more

"""A small READ: the language model and CLIP of the golden values, SAM with fewer cells."""

from pathlib import Path

from model import ReadConfig, ReadForCausalLM
from model.loading.builder import save_model
from model.sam import sam_sizes, sam_sizes_dict
from tests.released_tiny import CLIP, GOLDEN, SMALL_SAM, fill_by_formula
from utils.protocol.tokenization import load_tokenizer, seg_token_id


def write_small_read(folder: Path) -> Path:
    """Write a checkpoint as this project writes it; returns its folder."""
    config = ReadConfig.from_pretrained(GOLDEN / "released_tiny")
    config.sam = sam_sizes_dict(sam_sizes(SMALL_SAM))
    model = ReadForCausalLM(config)
    fill_by_formula(model)
    model.load_vision_tower(CLIP)
    tokenizer = load_tokenizer(GOLDEN / "released_tiny")
    config.seg_token_id = seg_token_id(tokenizer)
    save_model(model, tokenizer, folder)
    return folder

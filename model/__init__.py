"""READ: a multimodal model that answers in words and in masks."""

from transformers import AutoConfig, AutoModelForCausalLM

from model.config import ReadConfig
from model.inference.reader import Answer, Reader, Segment
from model.loading.builder import load_read
from model.read_model import ReadForCausalLM
from model.sasp import SaspParams

AutoConfig.register(ReadConfig.model_type, ReadConfig, exist_ok=True)
AutoModelForCausalLM.register(ReadConfig, ReadForCausalLM, exist_ok=True)

__all__ = [
    "Answer",
    "ReadConfig",
    "ReadForCausalLM",
    "Reader",
    "SaspParams",
    "Segment",
    "load_read",
]

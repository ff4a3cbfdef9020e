"""Tokenization, under the name that users know (see `utils.protocol.tokenization`)."""

from utils.protocol.tokenization import encode_batch, encode_prompt, load_tokenizer, seg_token_id

__all__ = ["encode_batch", "encode_prompt", "load_tokenizer", "seg_token_id"]

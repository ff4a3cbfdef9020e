"""Tokenization of conversations, as the data sets and users name it (see `utils.tokenization`)."""

from utils.tokenization import encode_batch, encode_prompt, load_tokenizer, seg_token_id

__all__ = ["encode_batch", "encode_prompt", "load_tokenizer", "seg_token_id"]

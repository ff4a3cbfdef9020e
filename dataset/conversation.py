"""Conversation formats, as the data sets and users name them (see `utils.conversation`)."""

from utils.conversation import CONVERSATION_TYPES, build_prompt, user_turn

__all__ = ["CONVERSATION_TYPES", "build_prompt", "user_turn"]

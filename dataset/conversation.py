"""Conversation formats, under the name that users know (see `utils.protocol.conversation`)."""

from utils.protocol.conversation import CONVERSATION_TYPES, build_prompt, user_turn

__all__ = ["CONVERSATION_TYPES", "build_prompt", "user_turn"]

"""Constants of the protocol: released weights were trained with exactly these."""

IMAGE_TOKEN_INDEX = -200
"""Marks the image's place in `input_ids`; replaced by the V image features."""

IGNORE_INDEX = -100
"""Label of a token that is not trained."""

IGNORE_LABEL = 255
"""Value of a truth pixel that does not count."""

IMAGE_TOKEN = "<image>"
SEG_TOKEN = "[SEG]"
IM_START_TOKEN = "<im_start>"
IM_END_TOKEN = "<im_end>"
ADDED_TOKENS = (SEG_TOKEN, IM_START_TOKEN, IM_END_TOKEN)
"""Added to LLaMA's vocabulary in this order."""

POLYGON_FILLS = ("4.11", "4.8")
"""Releases of OpenCV that fill polygons in different ways: 4.11 and later, and 4.8 to 4.10."""

IMAGE_ROOM = 255
"""Positions of an image in `model_max_length`, however many its tokens really take."""

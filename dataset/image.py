"""Reading images and the two views of them (see `utils.protocol.image_transforms`)."""

from utils.protocol.image_files import read_image
from utils.protocol.image_transforms import ImageViews, clip_view, default_clip_processor, sam_view

__all__ = ["ImageViews", "clip_view", "default_clip_processor", "read_image", "sam_view"]

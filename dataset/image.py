"""Reading pictures and the two views of them (see `utils.views`)."""

from utils.views import ImageViews, clip_view, default_clip_processor, read_image, sam_view

__all__ = ["ImageViews", "clip_view", "default_clip_processor", "read_image", "sam_view"]

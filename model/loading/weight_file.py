"""Weight files of PyTorch (`.bin`, `.pth`): pickles, of which only tensors are read, no code."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from model.sam import SamModel
from utils.errors import InputError

_NAMED = re.compile(r"GLOBAL ([\w.]+)")


def read_weight_file(path: str | Path) -> Any:
    """What `torch.load` finds, on the CPU; tensors stay on the disk until they are used.

    Files of old PyTorch are no archives and are read whole.

    Args:
        path: of the file.

    Raises:
        InputError: the file holds anything but tensors and plain containers. Nothing of it was run,
            and torch's advice to load it all the same is not passed on.
        OSError, RuntimeError, ValueError, KeyError, EOFError, AttributeError: a damaged file.
    """
    try:
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (UnpicklingError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "weights_only" not in str(error):
            raise
        found = _NAMED.search(str(error))
        what = f"it names code ({found[1]})" if found else "it is no intact file of tensors alone"
        # Not `from error`: its text tells how to run the file's code.
        raise InputError(
            f"cannot load {path}: {what}, and nothing of it was run. Expected a weight file that "
            "holds tensors alone; get it again from a source that you trust, as .safetensors where "
            "there is a choice"
        ) from None


def load_sam_weights(model: SamModel, path: str | Path) -> list[str]:
    """Fill a SAM from a published checkpoint (`sam_vit_h_4b8939.pth`), strictly.

    Returns:
        the names that were loaded.

    Raises:
        InputError: no such file, or it does not fit the sizes.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"no SAM weights at {path} (--vision_pretrained): expected a checkpoint of the "
            "segment-anything project such as sam_vit_h_4b8939.pth"
        )
    try:
        state = read_weight_file(path)
        model.load_state_dict(state)
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is no SAM checkpoint of these sizes ({model.sizes}): {error}"
        ) from error
    return sorted(state)

"""The original's way to a merged model: the weights in one file, the model told by flags.

`python zero_to_fp32.py . pytorch_model.bin` in a checkpoint folder makes the file. Run folders of
this project need neither: `bash merge_lora_weight.sh EXP_DIR`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from utils.cli import parser
from utils.cli.entry_point import cli
from utils.cli.options import OriginalMergeOptions
from utils.hub.model_card import model_card
from utils.hub.upload import upload_if_asked


@cli(interrupted="no model was written; the same command starts afresh")
def main(argv: list[str] | None = None) -> int:
    """Entry point; exit code 2 on mistakes of the user."""
    options = parser.parse(
        OriginalMergeOptions, argv, prog="merge_lora_weights_and_save_hf_model.py"
    )
    from model.loading.merging import merge_into
    from model.loading.trained_weights import fill_trained

    source, folder = Path(str(options.weight)), Path(options.save_path)
    card = model_card(options, options.push_to_hub)
    merge_into(folder, options, lambda model: fill_trained(model, source), card)
    print(f"merged model: {folder} (python demo.py --pretrained_model_path {folder})")
    return upload_if_asked(folder, options)


if __name__ == "__main__":
    sys.exit(main())

"""From a training run to a merged folder that `load_read` takes without any flag.

`bash merge_lora_weight.sh EXP_DIR [OUT]` is the short form. The run's saved configuration says how
the model was built; `model.loading.merging` does the work.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dataset.provenance import training_data
from utils.cli import parser
from utils.cli.entry_point import cli
from utils.cli.options import MergeOptions, TrainOptions
from utils.errors import InputError
from utils.hub.model_card import Checkpoint, model_card, validation_of
from utils.hub.upload import upload_if_asked
from utils.training.checkpoint import BEST, CHECKPOINTS, LATEST, CheckpointStore
from utils.training.resumption import CONFIG_FILE


def merge_run(options: MergeOptions) -> Path:
    """Merge the checkpoint that `options` names; returns the folder written.

    Raises:
        InputError: no run or checkpoint there, it does not fit its configuration, or the merged
            model answers differently.
    """
    from model.loading.merging import merge_into
    from utils.training.engine import load_trained

    run_dir = Path(options.exp_dir)
    trained = parser.load(TrainOptions, run_dir / CONFIG_FILE)
    store = CheckpointStore(run_dir / CHECKPOINTS)
    state = store.load(options.checkpoint)
    if state is None:
        raise InputError(
            f"{store.folder} has no {options.checkpoint} checkpoint; train first, or see that "
            "the run got as far as its first validation"
        )
    tag = state.tag

    def load(model: Any) -> None:
        try:
            load_trained(model, store.folder, tag)
        except InputError as error:
            other = LATEST if options.checkpoint == BEST else BEST
            more = f"; --checkpoint {other} is another one" if store.pointer(other) != tag else ""
            raise InputError(f"{error}{more}") from error

    print(f"merging {store.folder / tag} ({options.checkpoint})", flush=True)
    best = tag == store.pointer(BEST)
    checkpoint = Checkpoint(state.step, best, validation_of(run_dir, state.step))
    card = model_card(trained, options.push_to_hub, checkpoint, training_data(trained))
    adapter = Path(options.adapter) if options.adapter else None
    merge_into(options.folder, trained, load, card, adapter)
    return options.folder


@cli(interrupted="no model was written; the same command starts afresh")
def main(argv: list[str] | None = None) -> int:
    """Entry point; exit code 2 on mistakes of the user."""
    options = parser.parse(MergeOptions, argv, prog="merge_lora_weight.py")
    out = merge_run(options)
    print(f"merged model: {out} (python demo.py --pretrained_model_path {out})")
    return upload_if_asked(out, options)


if __name__ == "__main__":
    sys.exit(main())

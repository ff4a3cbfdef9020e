"""Make the small pre-trained parts again: `python -m tiny.pretrain tokenizer|clip|sam|llava|all`.

Writes into --out (default: this folder), in the order tokenizer, clip, sam, llava; llava needs the
tokenizer and clip. Steps and seeds are fixed, so the result depends on the libraries' arithmetic
only. Prints what was measured on images that training did not see.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tiny.schedule import Schedule
from utils.cli.entry_point import cli
from utils.errors import InputError

HERE = Path(__file__).parent


SCHEDULES = {
    "clip": Schedule(images=10_000, unseen=500, steps=3500, batch=32, lr=1e-3, seed=21),
    "sam": Schedule(images=8_000, unseen=300, steps=4000, batch=16, lr=1e-3, seed=11),
    "llava": Schedule(images=10_000, unseen=200, steps=4500, batch=8, lr=1e-3, seed=41),
}
TOKENIZER_SCENES, TOKENIZER_PIECES, TOKENIZER_SEED = 500, 640, 31
PARTS = ("tokenizer", "clip", "sam", "llava")


def make_part(part: str, out: Path, fraction: float = 1.0) -> dict[str, float]:
    """Train one part and write it below `out`.

    Args:
        fraction: of the images and steps; less than 1 only to try the recipe.

    Raises:
        InputError: llava without the tokenizer or clip in `out`.
    """
    from tiny import clip, llava, sam, tokenizer

    if part == "tokenizer":
        return tokenizer.train(out / "llava", TOKENIZER_SCENES, TOKENIZER_PIECES, TOKENIZER_SEED)
    whole = SCHEDULES[part]
    schedule = replace(
        whole,
        images=max(8, int(whole.images * fraction)),
        unseen=max(8, int(whole.unseen * fraction)),
        steps=max(1, int(whole.steps * fraction)),
    )
    if part == "clip":
        return clip.train(out / "clip", schedule)
    if part == "sam":
        return sam.train(out / "sam.pth", schedule)
    needed = [out / "llava" / "tokenizer.model", out / "clip" / "model.safetensors"]
    missing = [str(path) for path in needed if not path.is_file()]
    if missing:
        raise InputError(f"{', '.join(missing)} missing; make tokenizer and clip first")
    return llava.train(out / "llava", out / "clip", schedule)


@cli
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tiny.pretrain", description="Train the small pre-trained parts."
    )
    parser.add_argument("part", choices=(*PARTS, "all"))
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write into")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument(
        "--fraction", type=float, default=1.0, help="share of the steps, to try the recipe"
    )
    given = parser.parse_args(argv)
    if not 0 < given.fraction <= 1:
        raise InputError(f"--fraction {given.fraction} is not in (0, 1]")
    if given.threads < 1:
        raise InputError(f"--threads {given.threads} is less than 1")
    import torch

    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for part in PARTS if given.part == "all" else (given.part,):
        start = time.monotonic()
        result = make_part(part, given.out, given.fraction)
        print(f"{part}: {time.monotonic() - start:.0f} s {json.dumps(result)}")


if __name__ == "__main__":
    raise SystemExit(main())

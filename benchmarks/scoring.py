"""How long it takes to score masks under all protocols, and how much memory.

    python -m benchmarks.scoring [--questions 21700] [--out benchmarks/results]

As many questions as FP-RefCOCO val has, 480x640 masks with edges as rough as a decoder's, a tenth
of the questions with several objects, a third without any, some pixels labelled 255. The command
runs as a user starts it, in a process of its own, from JSON lines; then against a second run. It
has one busy thread: where other programs run as well, its CPU time is what counts. Ends with exit
code 1 if the scoring takes more than 30 s of it, or 1 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.protocol.rle import encode_mask

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH, POOL, PER_IMAGE = 480, 640, 400, 4
MOST_SECONDS, MOST_BYTES = 30, 1 << 30


def rough_masks(rng: np.random.Generator) -> list[np.ndarray]:
    """bool[H, W]: blobs of many sizes with rough edges."""
    masks = []
    for _ in range(POOL):
        centre = rng.integers((0, 0), (WIDTH, HEIGHT)).tolist()
        axes = rng.integers(20, 160, 2).tolist()
        mask = np.zeros((HEIGHT, WIDTH), np.float32)
        cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, 1.0, -1)
        noise = rng.standard_normal((HEIGHT // 8, WIDTH // 8)).astype(np.float32)
        mask = cv2.GaussianBlur(mask, (0, 0), 6) + 0.15 * cv2.resize(noise, (WIDTH, HEIGHT))
        masks.append(mask > 0.5)
    return masks


def write_files(folder: Path, questions: int) -> tuple[Path, list[Path]]:
    """A truth and two runs as JSON lines."""
    rng = np.random.default_rng(0)
    masks = rough_masks(rng)
    codes = [encode_mask(mask) for mask in masks]
    beside = [encode_mask(np.roll(mask, 9, axis=1)) for mask in masks]
    ignored = [encode_mask(cv2.dilate(m.astype(np.uint8), np.ones((9, 9))) > m) for m in masks]
    truth, runs = folder / "truth.jsonl", [folder / "run.jsonl", folder / "other.jsonl"]
    with truth.open("w") as true, runs[0].open("w") as first, runs[1].open("w") as second:
        for number in range(questions):
            count = 0 if number % 3 == 0 else int(rng.integers(2, 4)) if number % 10 == 1 else 1
            chosen = rng.integers(0, POOL, count).tolist()
            row: dict[str, Any] = {
                "id": str(number),
                "image": f"{number // PER_IMAGE}.jpg",
                "size": [HEIGHT, WIDTH],
                "masks": [codes[n] for n in chosen],
                "kind": "several" if count > 1 else "one" if count else "absent",
            }
            if count == 1 and number % 5 == 0:
                row["ignored"] = ignored[chosen[0]]
            true.write(json.dumps(row) + "\n")
            for file in (first, second):
                found = chosen if rng.random() < 0.9 else rng.integers(0, POOL, 1).tolist()
                answer = {"id": str(number), "masks": [beside[n] for n in found]}
                file.write(json.dumps(answer) + "\n")
    return truth, runs


def measure(arguments: list[str]) -> tuple[float, float, int]:
    """Seconds, seconds of CPU, and peak memory in bytes of a scoring process."""
    command = [sys.executable, "-m", "utils.evaluation.score", *arguments]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main() -> int:
    """Print the table, write it to `--out`; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description="Time and memory of scoring.")
    parser.add_argument("--questions", type=int, default=21_700)
    parser.add_argument("--out", type=Path, help="folder for scoring.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        truth, (run, other) = write_files(Path(folder), options.questions)
        size = (truth.stat().st_size + run.stat().st_size) / 1e6
        scored = ["--truth", str(truth), "--out", str(Path(folder) / "out")]
        rows = [
            ("all protocols", *measure([str(run), *scored])),
            (
                "and compared with another run",
                *measure([str(run), *scored, "--compare", str(other)]),
            ),
        ]
    lines = [
        f"{options.questions:,} questions, {HEIGHT}x{WIDTH}, {size:.0f} MB of JSON lines, "
        f"{os.cpu_count()} cores, Python {sys.version.split()[0]}.",
        "",
        "| | seconds | seconds of CPU | peak memory, MB |",
        "|---|---|---|---|",
        *(f"| {name} | {wall:.1f} | {cpu:.1f} | {m / 1e6:.0f} |" for name, wall, cpu, m in rows),
    ]
    print("\n".join(lines))
    if options.out:
        (options.out / "scoring.md").write_text("# Scoring\n\n" + "\n".join(lines) + "\n")
    _, _, cpu, memory = rows[0]
    return int(cpu > MOST_SECONDS or memory > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())

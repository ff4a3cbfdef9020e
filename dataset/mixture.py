"""Several training sets as one: each draw takes a set at the given rates, then its sample."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np

from dataset.loader import SampleSource
from utils.errors import InputError
from utils.protocol.batch import Sample

_STREAM = zlib.crc32(b"mixture")
"""The choice has its own generator: what a part draws tells nothing about when it is chosen."""


class Mixture:
    """A training set made of others; a draw is a function of (seed, index) alone.

    Args:
        parts: (name, training set) each; one of rate 0 is never touched and may be anything.
        rates: of each part, relative to their sum.
        seed: of the choices, at least 0.

    Raises:
        InputError: not one rate for each part, a rate that is negative or no number, or all 0.
    """

    def __init__(
        self, parts: Sequence[tuple[str, SampleSource]], rates: Sequence[float], seed: int
    ):
        if len(rates) != len(parts):
            raise InputError(
                f"--sample_rates has {len(rates)} numbers for {len(parts)} data sets: give one for "
                "each name of --dataset, in the same order"
            )
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates) or not any(rates):
            raise InputError(
                f"--sample_rates {', '.join(map(str, rates))}: expected numbers of at least 0, "
                "one of them above 0"
            )
        drawn = [(part, rate) for part, rate in zip(parts, rates, strict=True) if rate > 0]
        self.names = [name for (name, _), _ in drawn]
        self.parts = [part for (_, part), _ in drawn]
        # Divided by the largest rate first: the sum stays finite.
        shares = np.array([rate for _, rate in drawn], dtype=np.float64)
        summed = np.cumsum(shares / shares.max())
        self._ends = summed / summed[-1]
        self.seed = seed

    def choice(self, index: int) -> int:
        """Which of `names` draw `index` is taken from."""
        u = np.random.default_rng([self.seed, _STREAM, index]).random()
        return int(np.searchsorted(self._ends, u, side="right"))

    def sample(self, index: int) -> Sample:
        """The sample of a global index.

        Raises:
            InputError: what the chosen part raises.
        """
        return self.parts[self.choice(index)].sample(index)

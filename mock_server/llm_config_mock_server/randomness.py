"""Randomness that a seed repeats: every draw derives from (seed, purpose, count)."""

from __future__ import annotations

import random
import secrets
import uuid
from itertools import count
from typing import Final

_SEED_BITS: Final = 32  # short enough to be copied from a test's output
_ID_BITS: Final = 48  # twelve hex digits of a request id
_UUID_BITS: Final = 128
_TOKEN_BITS: Final = 128  # as many as a random UUID


class Randomness:
    """A source of random streams and of ids.

    Args:
        seed: Makes every draw repeatable; `None` draws a seed, which `seed` then tells.
        run: Counts the runs of a server that keeps its state and its seed: the ids of a later run are
            not those of an earlier one, tokens are.
    """

    def __init__(self, seed: int | None = None, *, run: int = 1) -> None:
        """Choose the seed."""
        self._run: tuple[int, ...] = () if run == 1 else (run,)
        self.seed: int = secrets.randbits(_SEED_BITS) if seed is None else seed
        self._counts = {"request": count(1), "entry": count(1)}

    def derive(self, *parts: object) -> random.Random:
        """Return a stream of its own for a purpose: the same parts give the same stream."""
        return random.Random(":".join(map(str, (self.seed, *parts))))  # noqa: S311 - repeatable on purpose, guards nothing

    def request_id(self) -> str:
        """Make the id of a request that brought none."""
        return f"req_{self._bits('request', _ID_BITS):012x}"

    def entry_id(self) -> str:
        """Make the id of a new entry."""
        return str(uuid.UUID(int=self._bits("entry", _UUID_BITS), version=4))

    def token(self, user: str) -> str:
        """Make the bearer token of a user, readable enough to tell whose it is; always the same one."""
        return f"lcm_{user}_{self.derive('token', user).getrandbits(_TOKEN_BITS):032x}"

    def _bits(self, purpose: str, bits: int) -> int:
        return self.derive(purpose, *self._run, next(self._counts[purpose])).getrandbits(bits)

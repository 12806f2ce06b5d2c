"""How a store that leaves the process writes keys and values down."""

from __future__ import annotations

import json
from typing import Any, Final, Protocol

from llm_config_resilience.context import current

#: What keys may be made of: these have the same `repr` in every process.
_PLAIN: Final = (str, int, float, bool, bytes, type(None))


class Codec(Protocol):
    """Turns values into bytes and back. What it reads may have been written by somebody else: no pickles."""

    def encode(self, value: Any, /) -> bytes:
        """Write a value; raise if it would not come back as it is."""
        ...

    def decode(self, data: bytes, /) -> Any:
        """Read a value; raise if it is none."""
        ...


class JsonCodec:
    """Values made of what JSON has.

    That is objects with strings as keys, arrays, strings, numbers, booleans and null. Reading it runs
    nothing, whoever wrote it. A value that would come back different, such as a tuple or a dictionary with
    numbers as keys, is refused.
    """

    def __repr__(self) -> str:
        return "JsonCodec()"

    def encode(self, value: Any, /) -> bytes:
        """Write a value as JSON.

        Args:
            value: The value.

        Raises:
            TypeError: It would not come back as it is.
        """
        try:
            text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        except ValueError as error:  # not a number, or a circle
            raise TypeError(f"a {type(value).__name__} does not go into JSON: {error}") from error
        if json.loads(text) != value:
            raise TypeError(
                f"this {type(value).__name__} would come back from JSON different; it needs another codec"
            )
        return text.encode()

    def decode(self, data: bytes, /) -> Any:
        """Read a value from JSON.

        Args:
            data: What `encode` wrote.

        Raises:
            ValueError: It is no JSON.
        """
        return json.loads(data)


def key_text(key: Any) -> str:
    """Write a key down: the same in every process, and different for different keys.

    Args:
        key: A string, number, boolean, bytes or `None`, or a tuple of such.

    Raises:
        TypeError: It is made of something else.
    """
    _check(key)
    return repr(key)


def asked_in_async() -> bool:
    """Whether a pipeline's async call is asking, which awaits what it is given."""
    context = current()
    return context is not None and context.is_async


def _check(key: Any) -> None:
    kind = key.__class__
    if kind is tuple:
        for part in key:
            _check(part)
    elif kind not in _PLAIN:
        raise TypeError(
            f"a {kind.__name__} is no key for what processes share; make one of strings and numbers"
        )

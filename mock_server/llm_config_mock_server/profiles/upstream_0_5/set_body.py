"""The body of a set, read as the server's JSON library (serde_json) reads it: same words, same positions."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from .words import NO_SHAPE, NO_SYNTAX, RefusedError, text

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_USER: Final = "api-user"
DEEPEST: Final = 128  # values within values
_STRUCT: Final = "struct SetConfigRequest"
_FIELDS: Final = ("value", "env", "user", "secret")
_REQUIRED: Final = ("value", "env")
_END: Final = -1  # stands for the byte behind the last one
_HERE: Final = -1  # stands for wherever the reader has got to

_WHITE: Final = frozenset(b" \n\t\r")
_OPENING: Final = frozenset(b"{[")
_BOOLEANS: Final = frozenset(b"tf")
_DIGIT_BYTES: Final = frozenset(b"0123456789")
_NUMERIC: Final = _DIGIT_BYTES | frozenset(b"-")
_SIGNS: Final = frozenset(b"+-")
_EXPONENT: Final = frozenset(b"eE")
_PLAIN: Final = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX: Final = re.compile(rb"[0-9a-fA-F]{4}")
_HEX_DIGITS: Final = 4
_INTEGER_DIGITS: Final = 20  # of the longest u64; a longer number is a float
_IDENTS: Final[dict[int, tuple[bytes, Any]]] = {
    ord("n"): (b"null", None),
    ord("t"): (b"true", True),
    ord("f"): (b"false", False),
}
_ESCAPES: Final[dict[int, str]] = {
    ord('"'): '"', ord("\\"): "\\", ord("/"): "/", ord("b"): "\b",
    ord("f"): "\f", ord("n"): "\n", ord("r"): "\r", ord("t"): "\t",
}  # fmt: skip
_LOW_SURROGATES: Final = range(0xDC00, 0xE000)
_HIGH_SURROGATES: Final = range(0xD800, 0xDC00)
_U64_MAX: Final = 2**64 - 1
_I64_MIN: Final = -(2**63)


@dataclass(frozen=True, slots=True)
class SetBody:
    """What a set asks for."""

    value: Any
    env: str
    user: str = DEFAULT_USER
    secret: bool = False


def read_set_body(body: bytes) -> SetBody:
    """Read the body of a set; what follows the first JSON value is not looked at.

    Raises:
        RefusedError: It is no JSON (400), or JSON of another shape (422).
    """
    reader = _Reader(body)
    try:
        return reader.read()
    except _SyntaxError as error:
        raise RefusedError(text(400, f"{NO_SYNTAX}{reader.where(error)}")) from error
    except _ShapeError as error:
        raise RefusedError(text(422, f"{NO_SHAPE}{reader.where(error)}")) from error


class _ReadError(Exception):
    """Something at an index of the body is not as it should be."""

    def __init__(self, what: str, index: int) -> None:
        super().__init__(what)
        self.what = what
        self.index = index


class _SyntaxError(_ReadError):
    """It is no JSON."""


class _ShapeError(_ReadError):
    """It is JSON, of another shape. An index of `_HERE`: wherever the reader has got to."""


class _Reader:
    """A reader of one body. An error leaves `path` at the value it is about."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._depth = DEEPEST
        self._path: list[str | int] = []

    def where(self, error: _ReadError) -> str:
        """Say an error as the server does: path, what, line and column."""
        index = self._at if error.index < 0 else min(error.index, len(self._data))
        line_start = self._data.rfind(b"\n", 0, index) + 1
        line = 1 + self._data.count(b"\n", 0, line_start)
        path = ""
        for step in self._path:
            path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
        return f"{path}{': ' if path else ''}{error.what} at line {line} column {index - line_start}"

    def read(self) -> SetBody:
        first = self._next_token()
        if first not in _OPENING:
            self._refuse_type(_STRUCT)
        found: dict[str, Any] = {}
        is_object = first == ord("{")
        try:
            if is_object:
                self._read_object(found)
            else:
                self._read_array(found)
        except _ShapeError as error:
            # A struct looks for its end before it complains.
            if error.index == _HERE and self._next_token() == ord("}" if is_object else "]"):
                self._at += 1
            raise
        return SetBody(**found)

    # --- The struct -----------------------------------------------------------------------------

    def _read_object(self, found: dict[str, Any]) -> None:
        def member(name: str) -> None:
            if name in found:
                raise _ShapeError(f"duplicate field `{name}`", _HERE)
            self._path.append(name)
            self._colon()
            if name in _FIELDS:
                found[name] = self._field(name)
            else:
                self._skip()
            self._path.pop()

        self._enter()
        self._members(member)
        for name in _REQUIRED:
            if name not in found:
                raise _ShapeError(f"missing field `{name}`", _HERE)
        self._at += 1

    def _read_array(self, found: dict[str, Any]) -> None:
        """Read the fields in order: serde takes a struct from an array, too."""

        def element(index: int) -> None:
            self._path.append(index)
            found[_FIELDS[index]] = self._field(_FIELDS[index])
            self._path.pop()

        self._enter()
        self._elements(element, most=len(_FIELDS))
        for index, name in enumerate(_REQUIRED):
            if name not in found:
                expected = f"expected {_STRUCT} with {len(_FIELDS)} elements"
                raise _ShapeError(f"invalid length {index}, {expected}", _HERE)
        if self._next_token() == ord(","):
            self._at += 1
            self._fail_at_next("trailing comma" if self._next_token() == ord("]") else "trailing characters")
        if self._next_token() != ord("]"):
            is_end = self._next_token() == _END
            self._fail_at_next("EOF while parsing a list" if is_end else "trailing characters")
        self._at += 1

    def _field(self, name: str) -> Any:
        if name == "value":
            return self._value()
        token = self._next_token()
        if name == "secret":
            return self._ident() if token in _BOOLEANS else self._refuse_type("a boolean")
        return self._string() if token == ord('"') else self._refuse_type("a string")

    def _skip(self) -> None:
        depth = len(self._path)
        try:
            self._value()
        except _ReadError:
            del self._path[depth:]  # the path ends at what is not kept
            raise

    def _refuse_type(self, expected: str) -> NoReturn:
        token = self._next_token()
        if token == _END:
            self._fail_at_next("EOF while parsing a value")
        if token in _OPENING:
            found = "map" if token == ord("{") else "sequence"
        elif token == ord('"'):
            found = f"string {_quoted(self._string())}"
        elif token in _IDENTS:
            value = self._ident()
            found = "null" if value is None else f"boolean `{str(value).lower()}`"
        elif token in _NUMERIC:
            number = self._number()
            found = (
                f"floating point `{_as_rust(number)}`" if isinstance(number, float) else f"integer `{number}`"
            )
        else:
            self._fail_at_next("expected value")
        raise _ShapeError(f"invalid type: {found}, expected {expected}", self._at)

    # --- Values ---------------------------------------------------------------------------------

    def _value(self) -> Any:
        token = self._next_token()
        if token in _IDENTS:
            return self._ident()
        if token in _NUMERIC:
            return self._number()
        if token == ord('"'):
            return self._string()
        if token not in _OPENING:
            self._fail_at_next("EOF while parsing a value" if token == _END else "expected value")
        return self._map() if token == ord("{") else self._list()

    def _list(self) -> list[Any]:
        items: list[Any] = []

        def element(index: int) -> None:
            self._path.append(index)
            items.append(self._value())
            self._path.pop()

        self._enter()
        self._elements(element)
        self._at += 1
        self._depth += 1
        return items

    def _map(self) -> dict[str, Any]:
        members: dict[str, Any] = {}

        def member(name: str) -> None:
            self._path.append(name)
            self._colon()
            members[name] = self._value()
            self._path.pop()

        self._enter()
        self._members(member)
        self._at += 1
        self._depth += 1
        return members

    def _enter(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._fail_at_next("recursion limit exceeded")
        self._at += 1

    def _elements(self, element: Callable[[int], None], *, most: int | None = None) -> None:
        """Read elements up to the closing bracket, or as many as are wanted."""
        index = 0
        while index != most:
            token = self._next_token()
            if token == ord("]"):
                return
            if token == _END:
                self._fail_at_next("EOF while parsing a list")
            if index:
                self._comma("]")
            element(index)
            index += 1

    def _members(self, member: Callable[[str], None]) -> None:
        """Read members up to the closing brace."""
        first = True
        while True:
            token = self._next_token()
            if token == ord("}"):
                return
            if token == _END:
                self._fail_at_next("EOF while parsing an object")
            if not first:
                self._comma("}")
            first = False
            if self._next_token() != ord('"'):
                self._fail_at_next("key must be a string")
            member(self._string())

    def _colon(self) -> None:
        token = self._next_token()
        if token != ord(":"):
            self._fail_at_next("EOF while parsing an object" if token == _END else "expected `:`")
        self._at += 1

    def _comma(self, close: str) -> None:
        if self._next_token() != ord(","):
            self._fail_at_next(f"expected `,` or `{close}`")
        self._at += 1
        token = self._next_token()
        if token == ord(close):
            self._fail_at_next("trailing comma")
        if token == _END:
            self._fail_at_next("EOF while parsing a value")

    # --- Tokens ---------------------------------------------------------------------------------

    def _ident(self) -> Any:
        ident, value = _IDENTS[self._data[self._at]]
        for expected in ident:
            if self._at == len(self._data):
                self._fail_here("EOF while parsing a value")
            self._at += 1
            if self._data[self._at - 1] != expected:
                self._fail_here("expected ident")
        return value

    def _number(self) -> int | float:
        start = self._at
        negative = self._peek() == ord("-")
        self._at += negative
        first = self._peek()
        if first not in _DIGIT_BYTES:
            self._at += first != _END
            self._fail_here("EOF while parsing a value" if first == _END else "invalid number")
        if first == ord("0"):
            self._at += 1
            if self._peek() in _DIGIT_BYTES:
                self._fail_at_next("invalid number")
        else:
            self._digits()
        is_float = self._fraction()
        is_float = self._exponent() or is_float
        written = self._data[start : self._at].decode("ascii")
        if not is_float and written != "-0" and len(written) <= _INTEGER_DIGITS:
            number = int(written)
            if (_I64_MIN if negative else 0) <= number <= _U64_MAX:
                return number
        rounded = float(written)
        if math.isinf(rounded):
            self._fail_here("number out of range")
        return rounded

    def _fraction(self) -> bool:
        if self._peek() != ord("."):
            return False
        self._at += 1
        if self._peek() not in _DIGIT_BYTES:
            self._fail_at_next("EOF while parsing a value" if self._peek() == _END else "invalid number")
        self._digits()
        return True

    def _exponent(self) -> bool:
        if self._peek() not in _EXPONENT:
            return False
        self._at += 1
        self._at += self._peek() in _SIGNS
        first = self._peek()
        self._at += first != _END
        if first not in _DIGIT_BYTES:
            self._fail_here("EOF while parsing a value" if first == _END else "invalid number")
        self._digits()
        return True

    def _digits(self) -> None:
        while self._peek() in _DIGIT_BYTES:
            self._at += 1

    def _string(self) -> str:
        self._at += 1
        pieces = bytearray()
        while True:
            plain = _PLAIN.match(self._data, self._at)
            if plain is not None:
                pieces += plain.group()
                self._at = plain.end()
            if self._at == len(self._data):
                self._fail_here("EOF while parsing a string")
            self._at += 1
            match self._data[self._at - 1]:
                case 0x22:  # the closing quote
                    break
                case 0x5C:  # a backslash
                    pieces += self._escape().encode()
                case _:
                    self._fail_here("control character (\\u0000-\\u001F) found while parsing a string")
        try:
            return pieces.decode()
        except UnicodeDecodeError:
            self._fail_here("invalid unicode code point")

    def _escape(self) -> str:
        escaped = self._next_of_string()
        if escaped in _ESCAPES:
            return _ESCAPES[escaped]
        if escaped != ord("u"):
            self._fail_here("invalid escape")
        first = self._hex()
        if first in _LOW_SURROGATES:
            self._fail_here("lone leading surrogate in hex escape")
        if first not in _HIGH_SURROGATES:
            return chr(first)
        for expected in b"\\u":
            if self._next_of_string() != expected:
                self._fail_here("unexpected end of hex escape")
        second = self._hex()
        if second not in _LOW_SURROGATES:
            self._fail_here("lone leading surrogate in hex escape")
        return (chr(first) + chr(second)).encode("utf-16", "surrogatepass").decode("utf-16")

    def _next_of_string(self) -> int:
        if self._at == len(self._data):
            self._fail_here("EOF while parsing a string")
        self._at += 1
        return self._data[self._at - 1]

    def _hex(self) -> int:
        digits = self._data[self._at : self._at + 4]
        self._at += len(digits)
        if len(digits) < _HEX_DIGITS:
            self._fail_here("EOF while parsing a string")
        if not _HEX.fullmatch(digits):
            self._fail_here("invalid escape")
        return int(digits, 16)

    def _next_token(self) -> int:
        """Skip white space and return the byte that follows, without taking it."""
        while self._peek() in _WHITE:
            self._at += 1
        return self._peek()

    def _peek(self) -> int:
        return self._data[self._at] if self._at < len(self._data) else _END

    def _fail_here(self, what: str) -> NoReturn:
        raise _SyntaxError(what, self._at)

    def _fail_at_next(self, what: str) -> NoReturn:
        raise _SyntaxError(what, self._at + 1)


def _quoted(value: str) -> str:
    """Write a string as Rust's `{:?}` does."""
    return f'"{"".join(_RUST.get(char) or _visible(char) for char in value)}"'


def _as_rust(number: float) -> str:
    """Write a float as Rust does: `1e21`, where Python has `1e+21`."""
    return repr(number).replace("e+", "e").replace("e-0", "e-")


def _visible(char: str) -> str:
    return char if char.isprintable() else f"\\u{{{ord(char):x}}}"


_RUST: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}

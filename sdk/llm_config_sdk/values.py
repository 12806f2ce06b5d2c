"""From an entry to a value of the type that the application wants."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pydantic
from pydantic import SecretStr, TypeAdapter

from llm_config_sdk.contract import Module
from llm_config_sdk.errors import InvalidRequestError, InvalidValueError

if TYPE_CHECKING:
    from llm_config_sdk.entries import ConfigEntry

T = TypeVar("T")

_FAULTS_SHOWN: Final = 3
_AS_THEY_ARE: Final = frozenset({str, int, float, bool})  # what most reads ask for, and needs no validation


def convert(entry: ConfigEntry, wanted: Any, *, strict: bool = False, operation: str = "get_value") -> Any:
    """Validate an entry's value.

    Args:
        entry: The entry.
        wanted: Any type that pydantic knows; `Any` leaves the value as it is. A default or a fallback is
            handed back as the very object that the caller gave.
        strict: Whether `"5"` is refused as an `int`, and `1` as a `bool`.
        operation: The client's method, for the message.

    Raises:
        InvalidValueError: The value has another type. The message says which was expected and which was
            found, and never shows the value.
        InvalidRequestError: `wanted` is nothing that pydantic can validate.
    """
    if entry.source == "default":
        return entry.stored_value
    if wanted is Any:
        return entry.value
    value = entry.stored_value
    if type(value) is wanted and wanted in _AS_THEY_ARE:
        return value
    try:
        return _validated(entry, wanted, strict=strict)
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
    # Raised out here, so that neither pydantic's error nor its frames, which hold the value, go along.
    told = "; ".join(
        f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" if fault["loc"] else fault["msg"]
        for fault in faults[:_FAULTS_SHOWN]
    )
    # A fault may quote what it found, and a secret is not to be quoted.
    why = "" if entry.secret else f": {told}"
    raise InvalidValueError(
        f"expected {_name(wanted)}, found {_json_type(entry.stored_value)}{why}",
        module=Module.CONFIG,
        details={"field": "value", "expected": _name(wanted), "found": _json_type(entry.stored_value)},
        hint="Correct the stored value, or ask for the type that it has.",
        operation=operation,
        namespace=entry.namespace,
        key=entry.key,
        environment=entry.environment,
        endpoint=entry.endpoint,
    )


def _validated(entry: ConfigEntry, wanted: Any, *, strict: bool) -> Any:
    value = entry.value
    if isinstance(value, SecretStr) and not _wants_secret(wanted):
        value = value.get_secret_value()
    return _adapter(wanted).validate_python(value, strict=strict)


@lru_cache(maxsize=512)
def _cached_adapter(wanted: Any) -> TypeAdapter[Any]:
    return TypeAdapter(wanted)


def _adapter(wanted: Any) -> TypeAdapter[Any]:
    try:
        try:
            return _cached_adapter(wanted)
        except TypeError:  # an annotation that cannot be hashed
            return TypeAdapter(wanted)
    except (pydantic.PydanticUserError, NameError) as error:
        raise InvalidRequestError(f"type={_name(wanted)} is nothing that pydantic can validate") from error


def _wants_secret(wanted: Any) -> bool:
    return wanted is SecretStr or SecretStr in getattr(wanted, "__args__", ())


def _name(wanted: Any) -> str:
    return wanted.__name__ if isinstance(wanted, type) else str(wanted).removeprefix("typing.")


_JSON_TYPES: Final[tuple[tuple[Any, str], ...]] = (
    (type(None), "null"),
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
    (SecretStr, "secret string"),
)


def _json_type(value: object) -> str:
    return next((name for known, name in _JSON_TYPES if type(value) is known), "something else")

"""Names: what path and query say of namespace, key, environment and version."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from llm_config_mock_server.storage import Address
from llm_config_sdk.contract import Environment, ErrorCode, key_problem, namespace_problem

from .bodies import json_type
from .refusals import RefusedError, config_error

if TYPE_CHECKING:
    from .visit import Visit

DEFAULT_ENVIRONMENT: Final = Environment.DEVELOPMENT
_VERSION_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_VERSION_MAX: Final = 2**64 - 1  # the platform's u64


def parse_environment(name: object, *, source: str) -> Environment:
    """Read an environment's name.

    Raises:
        RefusedError: There is none of that name (`config.ValidationError`).
    """
    if not isinstance(name, str):
        raise config_error("ValidationError", f"env must be a string, not {json_type(name)}", field="env")
    try:
        return Environment.parse(name)
    except ValueError as error:
        raise config_error(
            "ValidationError", f"Unknown environment: {name}", field="env", source=source
        ) from error


def namespace_of(visit: Visit) -> str:
    """Return the namespace that the path names.

    Raises:
        RefusedError: It breaks the platform's pattern (`config.InvalidNamespace`).
    """
    namespace = visit.arguments[0]
    problem = namespace_problem(namespace)
    if problem is not None:
        raise config_error(
            "InvalidNamespace", f"Invalid namespace: {problem}", field="namespace", reason=problem
        )
    return namespace


def address_of(visit: Visit, environment: Environment) -> Address:
    """Return the address that the path names.

    Raises:
        RefusedError: A name breaks the platform's patterns (`config.InvalidNamespace`, `config.InvalidKey`).
    """
    namespace, key = namespace_of(visit), visit.arguments[1]
    problem = key_problem(key)
    if problem is not None:
        raise config_error("InvalidKey", f"Invalid key: {problem}", field="key", reason=problem)
    return Address(namespace, key, environment)


def environment_of(visit: Visit) -> Environment:
    """Return the environment that the query names, or the default one.

    Raises:
        RefusedError: There is none of that name (`config.ValidationError`).
    """
    name = visit.parameter("env")
    return DEFAULT_ENVIRONMENT if name is None else parse_environment(name, source="query")


def flag(visit: Visit, name: str) -> bool:
    """Return a query parameter that is true or false; left out, it is false.

    Raises:
        RefusedError: It is neither (`config.ValidationError`).
    """
    value = visit.parameter(name)
    if value not in {None, "true", "false"}:
        raise config_error("ValidationError", f"{name} must be true or false, not {value!r}", field=name)
    return value == "true"


def version_number(segment: str) -> int:
    """Read a version.

    Raises:
        RefusedError: It is no number.
    """
    if not _VERSION_NUMBER.fullmatch(segment) or int(segment) > _VERSION_MAX:
        raise RefusedError(
            ErrorCode.INVALID_REQUEST,
            f"Invalid version: {segment!r} is no number",
            details={"field": "version"},
        )
    return int(segment)

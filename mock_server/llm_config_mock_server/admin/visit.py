"""A visit: a request to the interface on its way to its handler."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from llm_config_mock_server.messages import json_bytes
from llm_config_mock_server.storage import Address
from llm_config_sdk.contract import Environment, ErrorCode, key_problem, namespace_problem

from .bodies import Body
from .refusals import RefusedError

if TYPE_CHECKING:
    from llm_config_mock_server.core import Call
    from llm_config_mock_server.messages import Request

_B = TypeVar("_B", bound=Body)


@dataclass(frozen=True, slots=True)
class Visit:
    """A request on its way to its handler."""

    call: Call
    arguments: tuple[str, ...]

    @property
    def request(self) -> Request:
        """The request."""
        return self.call.request

    def body(self, model: type[_B]) -> _B:
        """Return the body.

        Raises:
            RefusedError: It is no JSON, or not what the model asks for; the field is named.
        """
        try:
            data = json.loads(self.request.body, parse_constant=_no_constant)
            json_bytes(data)
        except (ValueError, RecursionError) as error:
            raise RefusedError(
                f"Malformed JSON in the body: {error}", "body", code=ErrorCode.INVALID_REQUEST
            ) from error
        try:
            return model.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "body"
            raise RefusedError(f"{field}: {first['msg']}", field) from error

    def parameter(self, name: str) -> str | None:
        """Return a query parameter, or `None`."""
        return self.request.parameters.get(name, [None])[-1]

    def number(self, name: str, default: int, *, most: int) -> int:
        """Return a query parameter that is a whole number from 0.

        Raises:
            RefusedError: It is none.
        """
        text = self.parameter(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) > most:
            raise RefusedError(f"{name} must be a whole number from 0 to {most}, not {text[:64]!r}", name)
        return int(text)

    def environment(self) -> Environment:
        """Return the environment of the query, the development one if left out.

        Raises:
            RefusedError: There is none of that name.
        """
        return parse_environment(self.parameter("env") or Environment.DEVELOPMENT)

    def address(self, environment: Environment) -> Address:
        """Return the address that the path names.

        Raises:
            RefusedError: Namespace or key break the platform's rules.
        """
        namespace, key = self.arguments[:2]
        for field, problem in (("namespace", namespace_problem(namespace)), ("key", key_problem(key))):
            if problem is not None:
                raise RefusedError(problem, field)
        return Address(namespace, key, environment)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def parse_environment(name: str) -> Environment:
    """Read an environment's name.

    Raises:
        RefusedError: There is none of that name.
    """
    try:
        return Environment.parse(name)
    except ValueError as error:
        raise RefusedError(str(error), "env") from error

"""Bodies: what the interface is told, as models that refuse what they do not know."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from llm_config_mock_server import faults
from llm_config_mock_server.faults import CHAOS_RATE, Match, Repeat, Step
from llm_config_sdk.contract import Environment

from .refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_LONGEST_DELAY: Final = 3600.0  # seconds
_LARGEST_BODY: Final = 64 * 1024 * 1024  # bytes of an oversized reply
_STEPS_MAX: Final = 100
_TIMES_MAX: Final = 1000
Seconds = float
_HEADER_NAME: Final = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$"
_HEADER_VALUE: Final = r"^[\x20-\x7e]{0,1000}$"
_COUNT_MAX: Final = 1_000_000


class Body(BaseModel):
    """A body of the admin interface: strict, and what it does not know is an error."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, hide_input_in_errors=True, frozen=True
    )


class MatchBody(Body):
    """Which requests a rule is about; the fields of `Match`."""

    method: str | None = Field(None, pattern=r"^[A-Za-z]{1,20}$")
    path: str | None = Field(None, min_length=1, max_length=1000)
    namespace: str | None = Field(None, min_length=1, max_length=300)
    key: str | None = Field(None, min_length=1, max_length=300)
    env: str | None = Field(None, max_length=20)
    headers: dict[str, str] = Field(default_factory=dict[str, str], max_length=20)
    token: str | None = Field(None, min_length=1, max_length=300)
    connection: bool = False


class StepBody(Body):
    """What happens to one request: `do` names a step of the Python interface, the rest are its arguments."""

    do: Literal[
        "close",
        "drip",
        "error",
        "garbage",
        "half_close",
        "hang",
        "html",
        "latency",
        "malformed",
        "mislabelled",
        "ok",
        "oversized",
        "reset",
        "respond",
        "stale",
        "stall",
        "truncate",
    ]
    code: str | None = Field(None, pattern=r"^[A-Z_]{1,64}$")
    module: str | None = Field(None, max_length=64)
    variant: str | None = Field(None, max_length=64)
    status: int | None = Field(None, ge=200, le=599)
    message: str | None = Field(None, max_length=1000)
    details: dict[str, Any] | None = None
    kind: str | None = Field(None, max_length=64)
    retriable: bool | None = None
    retry_after: int | float | str | None = None
    body: Any = None
    content_type: str | None = Field(None, pattern=_HEADER_VALUE)
    headers: dict[str, str] | None = Field(None, max_length=20)
    reason: str | None = Field(None, pattern=r"^[\w .-]{1,100}$")
    size: int | None = Field(None, ge=1, le=_LARGEST_BODY)
    keep: int | None = Field(None, ge=0)
    head: int | None = Field(None, ge=0)
    interval: Seconds | None = Field(None, gt=0, le=_LONGEST_DELAY)
    part: Literal["head", "body", "both"] | None = None
    on_reuse: bool | None = None
    before: Seconds | None = Field(None, ge=0, le=_LONGEST_DELAY)
    after: Seconds | None = Field(None, ge=0, le=_LONGEST_DELAY)
    after_effect: bool = False
    at_head: bool = False

    def step(self, place: str) -> Step:
        """Make the step.

        Args:
            place: Where it stands, for an error to name.

        Raises:
            RefusedError: An argument is not the step's, or the arguments contradict each other.
        """
        foreign = self.model_fields_set - _ARGUMENTS[self.do] - _ANY_STEP
        if foreign:
            name = min(foreign)
            raise RefusedError(f"{name} is no argument of {self.do}", f"{place}.{name}")
        for name, value in (self.headers or {}).items():
            if not re.fullmatch(_HEADER_NAME, name) or not re.fullmatch(_HEADER_VALUE, value):
                raise RefusedError("headers must be names and values of HTTP", f"{place}.headers")
        if isinstance(self.retry_after, str) and not re.fullmatch(_HEADER_VALUE, self.retry_after):
            raise RefusedError("retry_after must be seconds or an HTTP date", f"{place}.retry_after")
        try:
            return self._made()
        except (ValueError, TypeError) as error:
            raise RefusedError(str(error), place) from error

    def _made(self) -> Step:
        given = {name: getattr(self, name) for name in self.model_fields_set & _ARGUMENTS[self.do]}
        if self.do == "respond":
            given.setdefault("status", 200)
        make: Callable[..., Step] = getattr(faults, self.do)
        step = make(**given)
        delays = {
            name: value
            for name, value in (("before", self.before), ("after", self.after))
            if value is not None and name not in given
        }
        step = step.delayed(**delays) if delays else step
        step = step.after_effect() if self.after_effect else step
        return step.at_head() if self.at_head else step


_ANY_STEP: Final = frozenset({"do", "before", "after", "after_effect", "at_head"})
_ARGUMENTS: Final[Mapping[str, frozenset[str]]] = {
    "close": frozenset(),
    "drip": frozenset({"interval", "size", "part"}),
    "error": frozenset(
        {
            "code",
            "module",
            "variant",
            "status",
            "message",
            "details",
            "kind",
            "retriable",
            "retry_after",
        }
    ),
    "garbage": frozenset(),
    "half_close": frozenset(),
    "hang": frozenset(),
    "html": frozenset({"status", "reason"}),
    "latency": frozenset({"before", "after"}),
    "malformed": frozenset(),
    "mislabelled": frozenset({"content_type"}),
    "ok": frozenset(),
    "oversized": frozenset({"size"}),
    "reset": frozenset({"keep"}),
    "respond": frozenset({"status", "body", "content_type", "headers"}),
    "stale": frozenset({"on_reuse"}),
    "stall": frozenset({"keep"}),
    "truncate": frozenset({"keep", "head"}),
}


class FaultBody(Body):
    """A rule to arm; what `MockServer.script` takes, and a name to know it by."""

    name: str | None = Field(None, min_length=1, max_length=100)
    match: str | MatchBody
    steps: list[StepBody] = Field(min_length=1, max_length=_STEPS_MAX)
    repeat: Repeat = "never"
    times: int = Field(1, ge=1, le=_TIMES_MAX)
    probability: float = Field(1.0, ge=0, le=1)
    between: list[float] | None = Field(None, min_length=2, max_length=2)


class ConditionBody(Body):
    """A component's trouble; the fields of `Condition`."""

    kind: str
    count: int | None = Field(None, ge=1, le=_COUNT_MAX)


class ChaosBody(Body):
    """A share of all requests fails; what `MockServer.chaos` takes."""

    rate: float = Field(CHAOS_RATE, ge=0, le=1)
    match: str = Field("/api/*", min_length=1, max_length=1000)
    steps: list[StepBody] | None = Field(None, min_length=1, max_length=_STEPS_MAX)


class EntryBody(Body):
    """An entry to write past roles, faults and audit; what `MockServer.put` takes."""

    value: Any
    env: str = Environment.DEVELOPMENT
    secret: bool = False
    user: str = Field("admin", min_length=1, max_length=128)
    tags: list[str] = Field(default_factory=list[str], max_length=100)
    description: str | None = Field(None, max_length=10_000)


def match_of(text: str | MatchBody) -> Match:
    """Return the match that a body names.

    Raises:
        RefusedError: It is none.
    """
    try:
        match = Match.parse(text) if isinstance(text, str) else Match(**text.model_dump())
        if match.env is not None:
            Environment.parse(match.env)
    except ValueError as error:
        raise RefusedError(str(error), "match") from error
    return match


def steps_of(bodies: Iterable[StepBody]) -> list[Step]:
    """Return the steps that bodies name.

    Raises:
        RefusedError: One of them cannot be made; it is named by its place.
    """
    return [body.step(f"steps.{place}") for place, body in enumerate(bodies)]

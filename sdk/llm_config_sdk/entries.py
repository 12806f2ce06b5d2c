"""What a caller gets: entries and their history, with where each value came from."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

import pydantic_core
from pydantic import Field, SecretStr, model_validator

from llm_config_sdk.contract import (
    CIPHERTEXT_FIELDS,
    ENCRYPTED_PLACEHOLDERS,
    WRITTEN_PLACEHOLDER,
    Environment,
    Metadata,
    Source,
    WireModel,
    entity_tag,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from llm_config_sdk.errors import LLMConfigError


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a value came from. It takes no part in comparing entries: the same value is the same entry.

    Attributes:
        source: Which layer answered.
        endpoint: The base URL that the value came from, where one is known.
        fetched_at: When a server sent it, in seconds since the epoch.
        error: What made a fallback necessary.
        attempts: How many requests the call took.
        now: What tells the present, in seconds since the epoch.
        validator: The entity tag that came with it, where the server sent one: what to ask it with again.
    """

    source: Source = field(default="server", compare=False)
    endpoint: str | None = field(default=None, compare=False)
    fetched_at: float = field(default_factory=time.time, compare=False)
    error: LLMConfigError | None = field(default=None, compare=False)
    attempts: int = field(default=1, compare=False)
    now: Callable[[], float] = field(default=time.time, compare=False, repr=False)
    validator: str | None = field(default=None, compare=False, repr=False)

    def of_a_copy(self) -> Provenance:
        """Describe what a cache serves from now on: it costs no request."""
        return Provenance("cache", self.endpoint, self.fetched_at, self.error, 0, self.now, self.validator)

    def __reduce__(self) -> tuple[Any, ...]:
        # A clock stays in its process.
        return Provenance, (self.source, self.endpoint, self.fetched_at, self.error, self.attempts)


_UNMARKED: Final = Provenance(fetched_at=inf)  # of an age that nobody knows, which counts as none

# Kept where pydantic keeps private attributes, and not declared as one: making and finding those costs more
# than all else about an entry but its validation.
_PROVENANCE: Final = "provenance"

_IMMUTABLE: Final = (str, int, float, type(None), SecretStr)


class _Valued(WireModel):
    """A body with a value: JSON that callers cannot change for each other, and that no `repr` shows."""

    stored_value: Any = Field(alias="value", repr=False)

    @property
    def value(self) -> Any:
        """The value: any JSON, as a copy of the caller's own, or a `pydantic.SecretStr` for a secret."""
        value: Any = self.stored_value
        return value if isinstance(value, _IMMUTABLE) else copy.deepcopy(value)

    @property
    def is_redacted(self) -> bool:
        """Whether the server sent a placeholder or ciphertext in place of a secret."""
        return is_redacted(self.stored_value)


class ConfigEntry(_Valued):
    """A config: its value, its version, who wrote it, and where this copy came from. Frozen.

    Attributes:
        id: The entry's identity; with `version` it names one exact value.
        namespace: As it was asked for.
        key: As it was asked for.
        environment: Where the value applies.
        version: From 1; every write makes a new one.
        metadata: Who wrote it and when.
        secret: Whether the value is a secret; `value` is a `pydantic.SecretStr` then, and redacted in
            a pickle, so that no store that pickles writes it down.
    """

    id: str
    namespace: str
    key: str
    environment: Environment
    version: int = Field(ge=1)
    metadata: Metadata
    secret: bool = False

    @model_validator(mode="after")
    def _wrap_secret(self) -> Self:
        value = self.stored_value
        fields: Any = self.__dict__  # an entry is frozen for others
        if is_redacted(value):
            fields |= {"stored_value": SecretStr(WRITTEN_PLACEHOLDER), "secret": True}
        elif self.secret and not isinstance(value, SecretStr):
            text = value if isinstance(value, str) else pydantic_core.to_json(value).decode()
            fields["stored_value"] = SecretStr(text)
        return self.mark(_UNMARKED)

    @property
    def source(self) -> Source:
        """Where this copy came from: `server`, `cache`, `stale`, `snapshot` or `default`."""
        return self.provenance.source

    @property
    def endpoint(self) -> str | None:
        """The base URL that the value came from, where one is known."""
        return self.provenance.endpoint

    @property
    def age(self) -> float:
        """Seconds since a server sent this value."""
        return max(0.0, self.provenance.now() - self.provenance.fetched_at)

    @property
    def is_stale(self) -> bool:
        """Whether the value is older than it should be, served because no fresh one was to be had."""
        return self.provenance.source in {"stale", "snapshot"}

    @property
    def error(self) -> LLMConfigError | None:
        """What made a fallback necessary; `None` for an answer as it should be."""
        return self.provenance.error

    @property
    def attempts(self) -> int:
        """How many requests the call took; 0 for an answer without one."""
        return self.provenance.attempts

    @property
    def etag(self) -> str:
        """The strong validator of this exact value: `"<id>.<version>"`."""
        return entity_tag(self.id, self.version)

    @property
    def provenance(self) -> Provenance:
        """Where this copy came from, all at once."""
        private: Any = self.__pydantic_private__
        return private[_PROVENANCE] if private else _UNMARKED

    def with_provenance(self, provenance: Provenance) -> Self:
        """Copy the entry with another provenance."""
        # As pydantic's own copy, which looks at each private attribute that a model might have: every entry
        # that is cached or served stale is such a copy.
        twin = self.__class__.__new__(self.__class__)
        set_slot = object.__setattr__
        set_slot(twin, "__dict__", self.__dict__.copy())
        set_slot(twin, "__pydantic_extra__", None)
        set_slot(twin, "__pydantic_fields_set__", self.__pydantic_fields_set__)
        return twin.mark(provenance)

    def mark(self, provenance: Provenance) -> Self:
        """Note where this very object came from: for whoever has just made it, before anybody else has it."""
        object.__setattr__(self, "__pydantic_private__", {_PROVENANCE: provenance})
        return self

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        shown = ("id", "namespace", "key", "environment", "version", "secret", "source")
        return [(name, str(v) if isinstance(v := getattr(self, name), Environment) else v) for name in shown]

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        if self.secret:
            state["__dict__"] = {**state["__dict__"], "stored_value": SecretStr(WRITTEN_PLACEHOLDER)}
        return state

    def as_secret(self) -> Self:
        """Copy the entry with its value wrapped, for a secret that the server does not mark as one."""
        if self.secret or not isinstance(self.stored_value, str):
            return self
        return self.model_copy(update={"stored_value": SecretStr(self.stored_value), "secret": True})


class HistoryEntry(_Valued):
    """One version of a config. Frozen; what was a secret is redacted.

    Attributes:
        version: The version that this item describes.
        created_at: When it was written.
        created_by: Who wrote it.
        change_description: What the server says of the change.
    """

    version: int = Field(ge=1)
    created_at: datetime
    created_by: str
    change_description: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _redact(cls, data: Any) -> Any:
        body = json_object(data)
        if body is not None and (body.get("secret") is True or is_redacted(body.get("value"))):
            return {**body, "value": SecretStr(WRITTEN_PLACEHOLDER)}
        return data


def is_redacted(value: object) -> bool:
    """Whether a value stands in the place of a secret: a placeholder, or the ciphertext itself."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str):
        return value in ENCRYPTED_PLACEHOLDERS
    body = json_object(value)
    return body is not None and body.keys() == CIPHERTEXT_FIELDS


def json_object(value: object) -> dict[str, Any] | None:
    """Narrow decoded JSON to an object, or `None` where it is something else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None

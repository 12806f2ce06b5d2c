"""How errors look to a type checker: checked by mypy and pyright, never run."""

from datetime import datetime
from typing import Any, assert_type

from llm_config_sdk.contract import Environment, ErrorCategory, ErrorCode, Metadata, Module, Source
from llm_config_sdk.decoding import Reply, decode_error, parse_retry_after, read_entries, read_entry
from llm_config_sdk.entries import ConfigEntry, Provenance
from llm_config_sdk.errors import (
    CODE_CLASSES,
    AllEndpointsFailedError,
    CacheError,
    ConnectFailedError,
    LLMConfigError,
    NotFoundError,
    ResponseFacts,
    ServerError,
    SystemFailure,
    VersionNotFoundError,
)


def facts_of_an_error(error: LLMConfigError) -> None:
    """Every fact has a type that a caller can rely on."""
    assert_type(error.code, ErrorCode | str | None)
    assert_type(error.message, str)
    assert_type(error.details, dict[str, Any])
    assert_type(error.timestamp, datetime | None)
    assert_type(error.request_id, str | None)
    assert_type(error.status, int | None)
    assert_type(error.retriable, bool)
    assert_type(error.is_retriable, bool)
    assert_type(error.is_transient, bool)
    assert_type(error.retry_after, float | None)
    assert_type(error.category, ErrorCategory)
    assert_type(error.module, Module | None)
    assert_type(error.hint, str)
    assert_type(error.response, ResponseFacts | None)
    assert_type(CODE_CLASSES[ErrorCode.NOT_FOUND], type[LLMConfigError])


def context_keeps_the_class(error: NotFoundError) -> None:
    """What `add_context` hands back can be raised as what it was."""
    assert_type(error.add_context("while starting"), NotFoundError)


def families_can_be_caught() -> None:
    """Classes and families stand in `except` clauses side by side."""
    try:
        raise VersionNotFoundError("gone", code="VERSION_NOT_FOUND", status=404, module="config")
    except (SystemFailure, CacheError) as family:
        assert_type(family, SystemFailure | CacheError)
    except AllEndpointsFailedError as several:
        assert_type(several.errors, tuple[Exception, ...])
    except ConnectFailedError as refused:
        assert_type(refused.never_sent, bool)
    except ServerError as error:
        assert_type(error.is_critical, bool)


def replies_become_entries_or_errors(reply: Reply, when: datetime) -> None:
    """The readers are typed from end to end."""
    entry = read_entry(reply)
    assert_type(entry, ConfigEntry)
    assert_type(entry.environment, Environment)
    assert_type(entry.metadata, Metadata)
    assert_type(entry.source, Source)
    assert_type(entry.error, LLMConfigError | None)
    assert_type(entry.with_provenance(Provenance(source="stale")), ConfigEntry)
    assert_type(read_entries(reply), list[ConfigEntry])
    assert_type(decode_error(reply, now=when), LLMConfigError)
    assert_type(parse_retry_after("120", now=when), float | None)


def mistakes_are_found(error: LLMConfigError) -> None:
    """A wrong name or a wrong type is a checker's error, and stays one."""
    LLMConfigError("no", status="500")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the mistake
    Provenance(source="elsewhere")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the mistake
    error.retriable = True  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # the mistake

"""Hints: one sentence that says what to do next, for everything that can go wrong."""

import inspect
import re

import pytest

from llm_config_sdk import errors, hints
from llm_config_sdk.contract import CODES, SYSTEM_KINDS, ErrorCode
from llm_config_sdk.errors import (
    CODE_CLASSES,
    InvalidRequestError,
    LLMConfigError,
    NotFoundError,
    StorageError,
)

SENTENCES = [
    *hints.CODE_HINTS.values(),
    *hints.KIND_HINTS.values(),
    *hints.CLASS_HINTS.values(),
    *hints.STATUS_HINTS.values(),
    *[value for name, value in vars(hints).items() if name.endswith("_HINT")],
]
BORN_HERE = [
    cls
    for cls in vars(errors).values()
    if inspect.isclass(cls)
    and issubclass(cls, LLMConfigError)
    and issubclass(cls, errors.ServerError)
    and cls.taxonomy_code is None
    and cls is not errors.ServerError
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_hint_is_one_sentence_that_begins_with_what_to_do(sentence):
    assert re.fullmatch(r"[A-Z].*[^.]\.", sentence)
    assert not re.search(r"[.!?] [A-Z]", sentence)
    assert len(sentence) < 120


def test_no_two_situations_share_a_hint():
    assert len(set(SENTENCES)) == len(SENTENCES)


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_its_hint(code):
    error = CODE_CLASSES[code]("it failed", code=code, status=CODES[code].status, retry_after=1.0)
    assert error.hint == hints.CODE_HINTS[code]
    assert set(hints.CODE_HINTS) == set(ErrorCode)


@pytest.mark.parametrize("kind", sorted(SYSTEM_KINDS))
def test_every_kind_of_system_failure_has_its_hint(kind):
    error = StorageError("it failed", code="STORAGE_ERROR", status=500, details={"kind": kind})
    assert error.hint == hints.KIND_HINTS[kind]
    assert set(hints.KIND_HINTS) == SYSTEM_KINDS


@pytest.mark.parametrize("cls", BORN_HERE)
def test_every_class_born_here_has_its_hint_and_so_has_what_is_derived_from_it(cls):
    derived = type("ApplicationsOwnError", (cls,), {})
    assert cls("it failed").hint == derived("it failed").hint == hints.CLASS_HINTS[cls.__name__]
    assert set(hints.CLASS_HINTS) == {cls.__name__ for cls in BORN_HERE}


@pytest.mark.parametrize("status", [300, 301, 302, 307, 308, 399])
def test_a_redirect_says_that_the_base_url_is_wrong(status):
    assert InvalidRequestError("moved", status=status).hint == hints.REDIRECT_HINT


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (406, "JSON"),
        (413, "2 MiB"),
        (414, "shorter"),
        (415, "application/json"),
        (426, "X-Forwarded-Proto"),
        (431, "headers"),
    ],
)
def test_a_status_with_a_remedy_of_its_own_names_it(status, word):
    assert word in InvalidRequestError("refused", status=status).hint


def test_the_security_policy_of_a_server_is_explained():
    error = InvalidRequestError("Request rejected due to security policy", status=400)
    assert error.hint == hints.POLICY_HINT
    assert InvalidRequestError("Malformed", status=400).hint == hints.CODE_HINTS[ErrorCode.INVALID_REQUEST]


def test_a_rate_limit_without_a_delay_does_not_speak_of_one():
    assert "retry_after" not in errors.RateLimitExceededError("slow down", status=429).hint


def test_the_most_specific_hint_wins():
    route = NotFoundError("no", status=404, is_route_problem=True)
    record = errors.InternalError(
        "no", status=500, details={"module": "cache", "variant": "SerializationError"}
    )
    assert route.hint == hints.ROUTE_HINT
    assert record.hint == hints.BROKEN_RECORD_HINT
    assert NotFoundError("no", hint="Call Ann.").hint == "Call Ann."
    assert LLMConfigError("no").hint == hints.UNKNOWN_HINT
    assert (
        StorageError("no", category="system", details={"kind": "New"}).hint
        == hints.CODE_HINTS["STORAGE_ERROR"]
    )


@pytest.mark.parametrize("operation", ["set_config", "rollback"])
def test_a_write_whose_outcome_is_unknown_is_not_to_be_repeated_blindly(operation):
    lost = errors.RequestTimeoutError("slow", operation=operation)
    assert lost.hint == hints.MAY_HAVE_BEEN_WRITTEN_HINT
    assert errors.RequestTimeoutError("slow", operation="get_config").hint != lost.hint
    assert errors.ConnectFailedError("refused", operation=operation).hint != lost.hint

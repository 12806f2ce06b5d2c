"""Exceptions: families that `except` sees, properties, words for people, copies."""

import copy
import inspect
import pickle
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings, strategies as st

from llm_config_sdk import errors
from llm_config_sdk.contract import CODES, SYSTEM_KINDS, ErrorCategory, ErrorCode, Module
from llm_config_sdk.errors import (
    CODE_CLASSES,
    AllEndpointsFailedError,
    CacheError,
    ClientError,
    ConfigError,
    ConflictError,
    ConnectFailedError,
    CryptoError,
    DecryptionError,
    InternalError,
    InvalidKeyError,
    InvalidRequestError,
    LLMConfigError,
    NotFoundError,
    RateLimitExceededError,
    RbacError,
    RequestTimeoutError,
    ResponseDecodeError,
    ResponseFacts,
    ServerError,
    ServiceCircuitOpenError,
    ServiceUnavailableError,
    StorageError,
    SystemFailure,
    TransportError,
    ValidationFailure,
    VersionNotFoundError,
)

unhurried = settings(deadline=None)  # a busy machine is no defect
PUBLIC = [cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, LLMConfigError)]
FULL = {
    "code": ErrorCode.STORAGE_ERROR,
    "status": 500,
    "details": {"module": "audit", "variant": "IoError", "kind": "StorageFull", "path": ["a"]},
    "timestamp": datetime(2024, 1, 15, 10, 30, tzinfo=UTC),
    "request_id": "req_abc123",
    "retriable": True,
    "retry_after": 1.5,
    "hint": "Do this.",
    "response": ResponseFacts(status=500, headers={"server": "x"}, body={"a": 1}, snippet="<p>"),
    "operation": "get_config",
    "namespace": "app/llm",
    "key": "model",
    "environment": "production",
    "endpoint": "https://config.example",
    "attempts": 3,
}


def of_code(code, **facts):
    return CODE_CLASSES[code]("it failed", **{"code": code, "status": CODES[code].status, **facts})


# --- The tree -----------------------------------------------------------------------------------


def drawn_tree():
    """Read the drawing in the module's docstring: (class, parent, the text beside it)."""
    path = []
    for line in errors.__doc__.splitlines():
        drawn = re.fullmatch(r"    ([│├└─ ]*)((?:[A-Z]\w+Error|[A-Z]\w+Failure)(?:, \w+)*)(?:  +(.*))?", line)
        if drawn is None:
            continue
        depth = len(drawn[1]) // 4
        del path[depth:]
        for name in drawn[2].split(", "):
            yield name, path[-1] if path else "Exception", drawn[3] or ""
        path.append(drawn[2])


def test_the_tree_in_the_docstring_is_the_tree():
    drawn = list(drawn_tree())
    assert sorted(name for name, _, _ in drawn) == sorted(cls.__name__ for cls in PUBLIC)
    for name, parent, beside in drawn:
        cls = getattr(errors, name)
        assert [base.__name__ for base in cls.__bases__] == [parent], name
        named = beside if beside in ErrorCode.__members__ else None
        assert cls.__dict__.get("taxonomy_code") == named, name


@pytest.mark.parametrize("cls", PUBLIC)
def test_every_public_class_is_documented_and_named_as_an_error(cls):
    assert cls.__doc__
    assert cls.__doc__ != LLMConfigError.__doc__ or cls is LLMConfigError
    assert cls.__name__.endswith(("Error", "Failure"))


def test_every_code_has_a_class_of_its_own():
    assert set(CODE_CLASSES) == set(ErrorCode)
    assert len(set(CODE_CLASSES.values())) == 17


# --- Families -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "family"),
    [
        ("config", errors.ConfigError),
        ("rbac", errors.RbacError),
        ("crypto", errors.CryptoError),
        ("audit", errors.AuditError),
        ("cache", errors.CacheError),
    ],
)
def test_except_catches_an_error_by_its_module(module, family):
    with pytest.raises(family) as caught:
        raise InternalError("it failed", status=500, details={"module": module})
    assert caught.value.module is Module(module)
    others = {ConfigError, RbacError, CryptoError, errors.AuditError, CacheError} - {family}
    assert not isinstance(caught.value, tuple(others))


def test_except_catches_a_system_failure_by_code_category_and_module():
    for family in (StorageError, ServerError, SystemFailure, errors.AuditError, LLMConfigError):
        with pytest.raises(family):
            raise StorageError("disk full", **FULL)


def test_families_do_not_change_what_the_error_is_called():
    error = StorageError("disk full", **FULL)
    assert type(error).__name__ == type(error).__qualname__ == "StorageError"
    assert type(error).__module__ == StorageError.__module__
    assert type(error).__doc__ == StorageError.__doc__
    assert type(error) is type(StorageError("again", **FULL))


def test_an_error_made_from_anothers_type_has_its_own_families_only():
    first = NotFoundError("no", code="NOT_FOUND", status=404, module="config")
    second = type(first)("no", code="NOT_FOUND", status=404, module="rbac")
    assert isinstance(second, RbacError)
    assert not isinstance(second, ConfigError)


class TenantGoneError(NotFoundError):
    """What an application may derive."""


@pytest.mark.parametrize("copied", [lambda it: pickle.loads(pickle.dumps(it)), copy.copy, copy.deepcopy])
def test_an_applications_own_subclass_keeps_class_and_families_in_copies(copied):
    error = copied(TenantGoneError("gone", code="NOT_FOUND", status=404, module="rbac"))
    assert isinstance(error, TenantGoneError)
    assert isinstance(error, RbacError)
    assert error.is_not_found


# --- What it is ---------------------------------------------------------------------------------

PROPERTIES = {
    "is_not_found": {NotFoundError, VersionNotFoundError},
    "is_permission_denied": {errors.PermissionDeniedError},
    "is_unauthorized": {errors.UnauthorizedError},
    "is_validation": {cls for cls in PUBLIC if issubclass(cls, ValidationFailure)},
    "is_conflict": {ConflictError},
    "is_rate_limited": {RateLimitExceededError},
    "is_critical": {errors.EncryptionError, DecryptionError},
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_each_property_is_true_of_its_classes_and_of_no_other(name):
    assert {cls for cls in PUBLIC if getattr(cls("it failed"), name)} == PROPERTIES[name]


@pytest.mark.parametrize("cls", PUBLIC)
def test_an_error_born_here_has_no_code_and_no_status_and_says_whose_mistake_it_is(cls):
    error = cls("it failed")
    is_callers = issubclass(cls, (ClientError, ValidationFailure))
    assert (error.code, error.status, error.module) == (None, None, None)
    assert error.category is (ErrorCategory.CLIENT if is_callers else ErrorCategory.SERVER)
    assert isinstance(error, ClientError if is_callers else ServerError)


@pytest.mark.parametrize("code", ErrorCode)
def test_only_server_errors_that_are_retriable_are_transient(code):
    error = of_code(code)
    assert error.is_retriable is CODES[code].retriable
    assert error.is_transient is (CODES[code].retriable and code != "RATE_LIMIT_EXCEEDED")


@pytest.mark.parametrize("word", [True, False])
@pytest.mark.parametrize("code", ErrorCode)
def test_the_servers_word_beats_the_table_but_for_conflicts(code, word):
    error = of_code(code, retriable=word)
    assert error.retriable is word
    assert error.is_retriable is (word and code != "CONFLICT")


def test_a_409_is_never_retriable_whatever_its_code():
    assert not of_code(ErrorCode.STORAGE_ERROR, status=409, retriable=True).is_retriable


@pytest.mark.parametrize("status", [408, 425])
def test_a_408_and_a_425_are_transient(status):
    error = ServiceUnavailableError("later", code="SERVICE_UNAVAILABLE", status=status)
    assert error.is_retriable
    assert error.is_transient


@pytest.mark.parametrize(("code", "status"), [("RATE_LIMIT_EXCEEDED", 503), ("SERVICE_UNAVAILABLE", 429)])
def test_a_rate_limit_is_retriable_and_never_transient(code, status):
    error = of_code(ErrorCode(code), status=status)
    assert error.is_rate_limited
    assert error.is_retriable
    assert not error.is_transient


@pytest.mark.parametrize("status", [301, 400, 404, 418, 451])
def test_other_statuses_below_500_are_not_retriable_whatever_their_code(status):
    error = of_code(ErrorCode.INTERNAL_ERROR, status=status)
    assert not error.is_retriable
    assert not error.is_transient


@pytest.mark.parametrize("kind", sorted(SYSTEM_KINDS))
def test_a_failure_of_the_host_is_system_and_not_retriable(kind):
    error = of_code(ErrorCode.STORAGE_ERROR, details={"kind": kind})
    assert error.category is ErrorCategory.SYSTEM
    assert isinstance(error, SystemFailure)
    assert not error.is_retriable
    assert not error.is_transient
    assert of_code(ErrorCode.STORAGE_ERROR, details={"kind": kind}, retriable=True).is_retriable


def test_other_kinds_of_io_errors_and_4xx_are_not_system():
    assert of_code(ErrorCode.STORAGE_ERROR, details={"kind": "Interrupted"}).category is ErrorCategory.SERVER
    denied = of_code(ErrorCode.PERMISSION_DENIED, details={"kind": "PermissionDenied"})
    assert denied.category is ErrorCategory.CLIENT


def test_a_category_that_is_given_is_kept():
    assert isinstance(StorageError("disk full", category=ErrorCategory.SYSTEM), SystemFailure)


def test_a_missing_route_is_not_a_missing_config():
    error = of_code(ErrorCode.NOT_FOUND, module="config", is_route_problem=True)
    assert isinstance(error, NotFoundError)
    assert not error.is_not_found
    assert error.module is None
    assert not isinstance(error, ConfigError)


@pytest.mark.parametrize("details", [{"module": 5, "variant": [], "kind": {}}, {"module": "billing"}])
def test_details_of_other_types_and_modules_are_kept_and_mean_nothing(details):
    error = of_code(ErrorCode.INTERNAL_ERROR, details=details)
    assert error.details == details
    assert error.module is None
    assert error.is_retriable


def test_the_callers_details_are_copied():
    details = {"a": 1}
    error = of_code(ErrorCode.INTERNAL_ERROR, details=details)
    details["a"] = 2
    assert error.details == {"a": 1}


# --- Born on this side --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls", [TransportError, ConnectFailedError, RequestTimeoutError, ServiceCircuitOpenError]
)
def test_what_another_endpoint_may_do_better_is_transient(cls):
    assert cls("it failed").is_retriable
    assert cls("it failed").is_transient


def test_an_answer_that_cannot_be_read_is_neither_retriable_nor_transient():
    error = ResponseDecodeError("a page")
    assert not error.is_retriable
    assert not error.is_transient


def test_only_a_connection_that_failed_proves_that_nothing_was_sent():
    assert ConnectFailedError("refused").never_sent
    assert not RequestTimeoutError("slow").never_sent
    assert RequestTimeoutError("no free connection", never_sent=True).never_sent


@pytest.mark.parametrize(
    ("failures", "hope"),
    [
        ([], False),
        ([ConnectFailedError("refused"), ConnectFailedError("refused")], True),
        ([of_code(ErrorCode.UNAUTHORIZED), ResponseDecodeError("a page")], False),
        ([ValueError("no error of ours"), ConnectFailedError("refused")], True),
    ],
    ids=["none", "refused", "fatal", "mixed"],
)
def test_all_endpoints_failed_holds_each_failure_and_hopes_where_one_does(failures, hope):
    error = AllEndpointsFailedError("all failed", errors=failures)
    assert error.errors == tuple(failures)
    assert error.is_retriable is error.is_transient is hope


# --- Words --------------------------------------------------------------------------------------


def test_str_names_the_call_the_facts_and_what_to_do():
    assert str(StorageError("disk full", **FULL)) == (
        "get_config app/llm model [production]: disk full (STORAGE_ERROR, HTTP 500, request req_abc123,"
        " at https://config.example, after 3 attempts). Do this."
    )


def test_str_of_a_bare_error_is_its_message_and_what_to_do():
    assert str(InvalidKeyError("key must not be empty", hint="Do this.")) == "key must not be empty. Do this."
    assert str(InvalidKeyError("Is it empty?", hint="Do this.")) == "Is it empty? Do this."


def test_repr_names_the_same():
    assert repr(StorageError("disk full", **FULL)) == (
        "StorageError('disk full', status=500, code='STORAGE_ERROR', operation='get_config',"
        " namespace='app/llm', key='model', environment='production', request_id='req_abc123',"
        " endpoint='https://config.example', hint='Do this.')"
    )


@pytest.mark.parametrize("shown", [str, repr, "{}".format, lambda it: "".join(it.location)])
@pytest.mark.parametrize(
    "field", ["message", "namespace", "key", "operation", "environment", "request_id", "code"]
)
@pytest.mark.parametrize("mark", ["\n", "\r", "\x00", "\x1b[2J", "\x85", "\u2028", "\u202e", "\ud800"])
def test_no_part_can_break_or_forge_a_line_of_a_log(shown, field, mark):
    facts = {**FULL, "message": "it failed", field: f"a{mark}ERROR forged"}
    text = shown(InvalidRequestError(facts.pop("message"), **facts))
    assert mark not in text
    assert mark[0] not in text
    text.encode()


@unhurried
@given(st.text(), st.text())
def test_any_text_is_shown_on_one_line(message, key):
    error = NotFoundError(message, key=key, operation="get_config")
    assert len(str(error).splitlines()) == 1
    assert len(repr(error).splitlines()) == 1


@pytest.mark.parametrize("shown", [str, repr])
def test_what_is_shown_is_bounded(shown):
    huge = "x" * 1_000_000
    facts = dict.fromkeys(
        ("code", "request_id", "operation", "namespace", "key", "environment", "endpoint"), huge
    )
    assert len(shown(InternalError(huge, **facts, hint=huge))) < 5000


@pytest.mark.parametrize("shown", [str, repr])
def test_no_credentials_of_an_endpoint_and_no_body_are_shown(shown):
    response = ResponseFacts(status=500, body={"token": "hunter2"}, snippet="hunter2")
    error = InternalError(
        "it failed",
        endpoint="https://ann:hunter2@config.example/x",
        response=response,
        details={"t": "hunter2"},
    )
    assert "hunter2" not in shown(error)
    assert "https://config.example/x" in shown(error)
    assert "hunter2" not in repr(error.response)


def test_context_is_added_as_notes_and_the_error_handed_back():
    error = NotFoundError("gone")
    assert error.add_context("while loading the settings of tenant 7") is error
    error.add_context("while starting")
    assert error.__notes__ == ["while loading the settings of tenant 7", "while starting"]


# --- Copies -------------------------------------------------------------------------------------


def facts_of(error):
    names = [*FULL, "message", "module", "variant", "kind", "category", "is_retriable", "server_retriable"]
    return {name: getattr(error, name) for name in names} | {"args": error.args, "text": str(error)}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("cls", PUBLIC)
def test_every_class_survives_pickling_whole(cls, protocol):
    original = cls("disk full", **FULL).add_context("while starting")
    twin = pickle.loads(pickle.dumps(original, protocol))
    assert type(twin) is type(original)
    assert facts_of(twin) == facts_of(original)
    assert twin.__notes__ == ["while starting"]
    with pytest.raises(SystemFailure):
        raise twin


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("cls", PUBLIC)
def test_every_class_can_be_copied_and_the_copy_has_notes_of_its_own(cls, copied):
    original = cls("disk full", **FULL).add_context("while starting")
    twin = copied(original)
    twin.add_context("in the copy")
    assert type(twin) is type(original)
    assert facts_of(twin) == facts_of(original)
    assert original.__notes__ == ["while starting"]


def test_what_is_special_about_a_class_survives_pickling():
    refused = ConnectFailedError("refused", endpoint="http://a")
    error = pickle.loads(pickle.dumps(AllEndpointsFailedError("all failed", errors=[refused])))
    assert [str(failure) for failure in error.errors] == [str(refused)]
    assert error.errors[0].never_sent


def test_errors_chain():
    with pytest.raises(TransportError) as caught:
        raise TransportError("reset") from ConnectionResetError(104, "reset")
    assert isinstance(caught.value.__cause__, ConnectionResetError)

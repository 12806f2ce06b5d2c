"""The ten families, the guide's `error_type`."""

import pytest

from llm_config_sdk import LLMConfigError, errors
from llm_config_sdk.contract import ErrorCode
from llm_config_sdk.errors import CODE_CLASSES
from llm_config_sdk.observability.families import ERROR_TYPES, code_of, error_type, is_callers_mistake

FAMILIES = {
    "INVALID_REQUEST": "validation",
    "VALIDATION_ERROR": "validation",
    "INVALID_NAMESPACE": "validation",
    "INVALID_KEY": "validation",
    "INVALID_VALUE": "validation",
    "CONFLICT": "validation",
    "UNAUTHORIZED": "permission",
    "PERMISSION_DENIED": "permission",
    "NOT_FOUND": "not_found",
    "VERSION_NOT_FOUND": "not_found",
    "RATE_LIMIT_EXCEEDED": "rate_limit",
    "INTERNAL_ERROR": "internal",
    "STORAGE_ERROR": "storage",
    "DATABASE_ERROR": "storage",
    "ENCRYPTION_ERROR": "crypto",
    "DECRYPTION_ERROR": "crypto",
    "SERVICE_UNAVAILABLE": "unavailable",
}


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_its_family_from_the_wire_and_from_this_side(code):
    cls = CODE_CLASSES[code]
    assert error_type(cls("sent", code=code, status=500)) == FAMILIES[code]
    assert error_type(cls("born here")) == FAMILIES[code]


@pytest.mark.parametrize(
    ("error", "family"),
    [
        (errors.TransportError("x"), "transport"),
        (errors.ConnectFailedError("x"), "transport"),
        (errors.RequestTimeoutError("x"), "transport"),
        (errors.ResponseDecodeError("x"), "decode"),
        (errors.ServiceCircuitOpenError("x"), "unavailable"),
        (errors.AllEndpointsFailedError("x"), "unavailable"),
        (LLMConfigError("x", code="TEAPOT", status=418), "validation"),
        (LLMConfigError("x", status=403), "permission"),
        (LLMConfigError("x", status=404), "not_found"),
        (LLMConfigError("x", status=429), "rate_limit"),
        (LLMConfigError("x", status=502), "unavailable"),
        (LLMConfigError("x", status=500), "internal"),
        (LLMConfigError("x"), "internal"),
        (RuntimeError("x"), "internal"),
    ],
)
def test_errors_without_a_known_code_are_judged_by_class_then_status(error, family):
    assert error_type(error) == family
    assert family in ERROR_TYPES


def test_an_error_is_named_by_its_code_or_its_class():
    assert code_of(errors.StorageError("x", code=ErrorCode.STORAGE_ERROR)) == "STORAGE_ERROR"
    assert code_of(errors.ConnectFailedError("x")) == "ConnectFailedError"
    assert code_of(errors.SystemFailure("x", code="NEW_CODE")) == "NEW_CODE"


def test_only_what_is_not_found_invalid_or_denied_is_the_callers_mistake():
    mistakes = {code for code in ErrorCode if is_callers_mistake(CODE_CLASSES[code]("x"))}
    assert mistakes == {
        code for code, family in FAMILIES.items() if family in {"validation", "not_found", "permission"}
    }

"""The API's calls as data: how they are encoded, and what they say of themselves."""

import json
from urllib.parse import unquote

import pytest
from hypothesis import given, settings, strategies as st

from llm_config_sdk import operations
from llm_config_sdk.contract import Environment
from llm_config_sdk.errors import InvalidRequestError, InvalidValueError, NotFoundError
from llm_config_sdk.operations import (
    DELETE_CONFIG,
    GET_CONFIG,
    GET_HISTORY,
    HEALTH_CHECK,
    LIST_CONFIGS,
    ROLLBACK,
    SET_CONFIG,
    encode_json,
    encode_segment,
    prepare,
    prepare_request,
)

PRODUCTION = Environment.PRODUCTION


@pytest.mark.parametrize(
    ("operation", "arguments", "method", "target"),
    [
        (GET_CONFIG, ("app/llm", "a.b"), "GET", "/api/v1/configs/app%2Fllm/a%2Eb?env=production"),
        (DELETE_CONFIG, ("app", "n"), "DELETE", "/api/v1/configs/app/n?env=production"),
        (LIST_CONFIGS, ("a--b",), "GET", "/api/v1/configs/a%2D%2Db?env=production"),
        (GET_HISTORY, ("app", "n"), "GET", "/api/v1/configs/app/n/history?env=production"),
        (ROLLBACK, ("app", "n"), "POST", "/api/v1/configs/app/n/rollback/7?env=production"),
    ],
    ids=lambda part: getattr(part, "name", None),
)
def test_a_call_has_its_route(operation, arguments, method, target):
    version = 7 if operation is ROLLBACK else None
    key = arguments[1] if len(arguments) > 1 else None
    call = prepare(operation, arguments[0], key, PRODUCTION, version=version)
    assert (call.operation.method, call.target) == (method, target)


def test_the_health_is_asked_for_at_the_root():
    assert HEALTH_CHECK.path == "/health"


@pytest.mark.parametrize(
    ("operation", "repeatable", "is_read"),
    [
        (GET_CONFIG, True, True),
        (LIST_CONFIGS, True, True),
        (GET_HISTORY, True, True),
        (HEALTH_CHECK, True, True),
        (DELETE_CONFIG, True, False),
        (SET_CONFIG, False, False),
        (ROLLBACK, False, False),
    ],
    ids=lambda part: getattr(part, "name", None),
)
def test_what_may_be_repeated_and_what_may_go_elsewhere(operation, repeatable, is_read):
    assert (operation.repeatable, operation.is_read) == (repeatable, is_read)


def test_an_idempotency_key_makes_a_write_repeatable():
    plain = prepare(SET_CONFIG, "app", "n", PRODUCTION)
    keyed = prepare(SET_CONFIG, "app", "n", PRODUCTION, headers=operations.call_headers(idempotency_key="k"))
    assert (plain.is_repeatable, keyed.is_repeatable) == (False, True)


def test_every_call_has_a_request_id_of_its_own():
    assert len({prepare(GET_CONFIG, "app", "n").request_id for _ in range(100)}) == 100


@settings(deadline=None)
@given(st.text(min_size=1).filter(lambda name: name.isprintable()))
def test_a_segment_is_letters_digits_and_upper_case_escapes(name):
    encoded = encode_segment(name)
    assert unquote(encoded) == name
    assert all(c.isascii() and (c.isalnum() or c == "%") for c in encoded)
    assert all(escape[:2] == escape[:2].upper() for escape in encoded.split("%")[1:])


@settings(deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text('äb😀"\\'),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
        max_leaves=8,
    )
)
def test_json_is_written_exactly(value):
    assert json.loads(encode_json(value, operation="set_config")) == value


def test_a_message_about_a_bad_value_does_not_show_it():
    with pytest.raises(InvalidValueError) as caught:
        encode_json({"password": object(), "x": "s3cr3t"}, operation="set_config")
    assert "object" in caught.value.message
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("-inf")]}])
def test_a_number_that_json_does_not_have_is_named_as_the_fault(value):
    with pytest.raises(InvalidValueError, match="not finite"):
        encode_json(value, operation="set_config")


def test_a_value_that_holds_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(InvalidValueError):
        encode_json(value, operation="set_config")


@pytest.mark.parametrize(
    ("path", "params", "target"),
    [
        ("/health", None, "/health"),
        ("/a/b%2Fc", {"env": "production"}, "/a/b%2Fc?env=production"),
        ("/a?x=1", {"y": "2 3"}, "/a?x=1&y=2+3"),
        ("/a", {"k": ["1", "2"]}, "/a?k=1&k=2"),
    ],
    ids=repr,
)
def test_a_path_of_the_callers_own_is_sent_as_it_is(path, params, target):
    assert prepare_request("get", path, params, None).target == target


@pytest.mark.parametrize(
    ("method", "repeatable", "is_read"),
    [
        ("GET", True, True),
        ("HEAD", True, True),
        ("DELETE", True, False),
        ("POST", False, False),
        ("PUT", False, False),
    ],
)
def test_a_request_of_the_callers_own_is_as_repeatable_as_its_method(method, repeatable, is_read):
    call = prepare_request(method, "/x", None, None)
    assert (call.is_repeatable, call.operation.is_read) == (repeatable, is_read)


@pytest.mark.parametrize(
    ("header", "expected"),
    [('"3"', 3), ('"0b1-2.7"', 7), ('"abc"', None), ('"x.y"', None), ("", None)],
    ids=repr,
)
def test_the_expected_version_is_read_from_the_condition(header, expected):
    call = prepare(SET_CONFIG, "app", "n", PRODUCTION, headers={"If-Match": header} if header else {})
    assert call.expected_version == expected


def test_headers_of_the_sdks_own_have_one_name_however_a_caller_writes_them():
    given_headers = {"x-user-id": "ann", "AUTHORIZATION": "Bearer x", "X-Other": "1"}
    assert operations.client_headers(given_headers) == {
        "X-User-ID": "ann",
        "Authorization": "Bearer x",
        "X-Other": "1",
    }


@settings(deadline=None)
@given(st.text())
def test_a_header_value_never_breaks_its_line(value):
    try:
        sent = operations.check_header("X-A", value)
    except InvalidRequestError:
        assert not (value.isascii() and value.isprintable() and value == value.strip())
    else:
        assert sent.isascii()
        assert not set(sent) & set("\r\n\0")


def test_a_call_tells_an_error_what_it_does_not_know():
    call = prepare(GET_CONFIG, "app", "n", PRODUCTION)
    error = NotFoundError("gone", request_id="theirs")
    call.locate(error)
    assert (error.operation, error.namespace, error.key) == ("get_config", "app", "n")
    assert error.environment is PRODUCTION
    assert error.request_id == "theirs"
    assert call.location == "get_config app n [production]"


def test_a_body_and_a_token_are_in_no_repr():
    body = operations.encode_set_body("s3cr3t", PRODUCTION, user=None, secret=True)
    call = prepare(SET_CONFIG, "app", "n", PRODUCTION, body=body, headers={"Authorization": "t0k3n"})
    assert "s3cr3t" not in repr(call)
    assert "t0k3n" not in repr(call)


@pytest.mark.parametrize("params", [{"a": "\ud800"}, {"\ud800": 1}])
def test_params_that_are_half_a_character_are_refused(params):
    with pytest.raises(InvalidRequestError, match="Unicode"):
        operations.prepare_request("GET", "/x", params, None)

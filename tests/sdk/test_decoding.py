"""The ladder: whatever a server or a proxy answers becomes a value or an error of this SDK."""

import json
import pickle
import time
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from llm_config_sdk import decoding, errors
from llm_config_sdk.contract import CODES, OS_ERROR_KINDS, SYSTEM_KINDS, ErrorCategory, ErrorCode, Module
from llm_config_sdk.decoding import Reply, decode_error, parse_retry_after
from llm_config_sdk.errors import CODE_CLASSES, LLMConfigError, ResponseDecodeError

unhurried = settings(deadline=None)  # a busy machine is no defect
TAXONOMY = json.loads((Path(__file__).parent / "fixtures" / "error_taxonomy.json").read_text())
CODE_ROWS = TAXONOMY["codes"]
VARIANT_ROWS = [(module, row) for module, rows in TAXONOMY["modules"].items() for row in rows]
SYSTEM_ROWS = [
    (module, row["variant"], kind) for module, row in VARIANT_ROWS for kind in row.get("system_kinds", ())
]
CATEGORY_FAMILIES = {
    "client": errors.ClientError,
    "server": errors.ServerError,
    "validation": errors.ValidationFailure,
    "system": errors.SystemFailure,
}
MODULE_FAMILIES = {
    "config": errors.ConfigError,
    "rbac": errors.RbacError,
    "crypto": errors.CryptoError,
    "audit": errors.AuditError,
    "cache": errors.CacheError,
}
JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain; charset=utf-8"}
HTML = {"content-type": "text/html"}
NOW = datetime(2024, 1, 15, 10, 30, tzinfo=UTC)
CIPHERTEXT = {"algorithm": "aes-256-gcm", "nonce": "00", "ciphertext": "ff", "key_version": 1}
ENTRY = {
    "id": "1",
    "namespace": "app",
    "key": "model",
    "value": "gpt-4",
    "environment": "production",
    "version": 1,
    "metadata": {
        "created_at": "2024-01-15T10:30:00.123456789+00:00",
        "created_by": "ann",
        "updated_at": "2024-01-15T10:30:00Z",
        "updated_by": "ann",
    },
}


def reply(status, body=b"", headers=JSON):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, headers, raw)


def decoded(status, body=b"", headers=JSON):
    return decode_error(reply(status, body, headers), now=NOW)


def envelope(code, **fields):
    body = {
        "code": code,
        "message": "it failed",
        "details": {},
        "timestamp": "2024-01-15T10:30:00Z",
        "request_id": "req_abc123",
        **fields,
    }
    return {"error": body}


@pytest.mark.parametrize(("length", "is_read"), [(256 * 1024, True), (256 * 1024 + 1, False)])
def test_an_error_body_is_read_up_to_256_kibibytes(length, is_read):
    body = json.dumps(envelope("CONFLICT")).encode()
    error = decoded(409, body + b" " * (length - len(body)))
    assert (error.request_id == "req_abc123") is is_read


def assert_families(error, category, module):
    held = {name for name, family in CATEGORY_FAMILIES.items() if isinstance(error, family)}
    by_class = {
        name for name, family in CATEGORY_FAMILIES.items() if issubclass(CODE_CLASSES[error.code], family)
    }
    assert held == by_class | {category}
    assert {name for name, family in MODULE_FAMILIES.items() if isinstance(error, family)} == {module}


# --- The guide's tables, through real envelopes: 17 codes and 36 variants -------------------------


def assert_row(error, row, module, *, critical, category=None, retriable=None):
    category = category or row["category"]
    retriable = row["retriable"] if retriable is None else retriable
    for it in (error, pickle.loads(pickle.dumps(error))):
        assert isinstance(it, CODE_CLASSES[row["code"]])
        assert it.code == row["code"]
        assert it.status == row["status"]
        assert it.category == category
        assert it.module == module
        assert it.retriable is it.is_retriable is retriable
        assert it.is_transient is (retriable and row["status"] >= 500)
        assert it.is_critical is critical
        assert it.is_validation is (row["category"] == "validation")
        assert it.message == "it failed"
        assert it.request_id == "req_abc123"
        assert it.timestamp == NOW
        assert_families(it, category, module)
        with pytest.raises(MODULE_FAMILIES[module]):
            raise it


@pytest.mark.parametrize("row", CODE_ROWS, ids=[row["code"] for row in CODE_ROWS])
def test_every_code_of_the_guide_becomes_its_exception(row):
    error = decoded(row["status"], envelope(row["code"]))
    assert_row(error, row, "config", critical=row["code"] in {"ENCRYPTION_ERROR", "DECRYPTION_ERROR"})


@pytest.mark.parametrize(
    ("module", "row"), VARIANT_ROWS, ids=[f"{module}.{row['variant']}" for module, row in VARIANT_ROWS]
)
def test_every_variant_of_the_guide_becomes_its_exception(module, row):
    details = {"module": module, "variant": row["variant"]}
    error = decoded(row["status"], envelope(row["code"], details=details))
    critical = row.get("critical", False) or row["variant"] == "SerializationError"
    assert_row(error, row, module, critical=critical)
    assert error.variant == row["variant"]


def test_the_table_has_all_fifty_three_rows():
    assert (len(CODE_ROWS), len(VARIANT_ROWS)) == (17, 36)


@pytest.mark.parametrize(("module", "variant", "kind"), SYSTEM_ROWS)
def test_an_io_error_of_the_host_is_a_system_failure(module, variant, kind):
    row = {"code": "STORAGE_ERROR", "status": 500, "category": "system"}
    details = {"module": module, "variant": variant, "kind": kind}
    error = decoded(500, envelope("STORAGE_ERROR", details=details))
    assert_row(error, row, module, critical=False, category="system", retriable=False)
    assert "administrator" in error.hint


def test_a_transient_io_error_stays_retriable():
    details = {"module": "config", "variant": "IoError", "kind": "Interrupted"}
    error = decoded(500, envelope("STORAGE_ERROR", details=details))
    assert error.category is ErrorCategory.SERVER
    assert error.is_retriable


@pytest.mark.parametrize("word", [True, False])
@pytest.mark.parametrize("row", CODE_ROWS, ids=[row["code"] for row in CODE_ROWS])
def test_the_servers_boolean_beats_the_table_and_never_revives_a_conflict(row, word):
    error = decoded(row["status"], envelope(row["code"], retriable=word))
    assert error.retriable is word
    assert error.is_retriable is (word and row["status"] != 409)


@pytest.mark.parametrize("word", ["true", 1, 0, None, [], {}])
@pytest.mark.parametrize("row", CODE_ROWS, ids=[row["code"] for row in CODE_ROWS])
def test_a_retriable_that_is_no_boolean_leaves_the_table_to_decide(row, word):
    assert decoded(row["status"], envelope(row["code"], retriable=word)).retriable is row["retriable"]


# --- Codes from statuses ------------------------------------------------------------------------

BY_STATUS = {
    300: "INVALID_REQUEST",
    301: "INVALID_REQUEST",
    304: "INVALID_REQUEST",
    308: "INVALID_REQUEST",
    400: "INVALID_REQUEST",
    401: "UNAUTHORIZED",
    402: "INVALID_REQUEST",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "INVALID_REQUEST",
    406: "INVALID_REQUEST",
    408: "SERVICE_UNAVAILABLE",
    409: "CONFLICT",
    412: "CONFLICT",
    413: "INVALID_REQUEST",
    414: "INVALID_REQUEST",
    415: "INVALID_REQUEST",
    418: "INVALID_REQUEST",
    422: "VALIDATION_ERROR",
    425: "SERVICE_UNAVAILABLE",
    426: "INVALID_REQUEST",
    429: "RATE_LIMIT_EXCEEDED",
    431: "INVALID_REQUEST",
    499: "INVALID_REQUEST",
    500: "INTERNAL_ERROR",
    501: "INTERNAL_ERROR",
    502: "SERVICE_UNAVAILABLE",
    503: "SERVICE_UNAVAILABLE",
    504: "SERVICE_UNAVAILABLE",
    507: "INTERNAL_ERROR",
    520: "INTERNAL_ERROR",
    599: "INTERNAL_ERROR",
}
RETRIABLE_STATUSES = {408, 425, 429, 500, 501, 502, 503, 504, 507, 520, 599}
BODIES = {
    "empty": (b"", {}),
    "blank": (b" \r\n ", TEXT),
    "html": (b"<!DOCTYPE html><html><body>nginx</body></html>", HTML),
    "text": (b"no luck", TEXT),
    "flat": ({"error": "Reason", "message": "no luck"}, JSON),
    "envelope": ({"error": {"message": "no luck"}}, JSON),
    "null": (b"null", JSON),
    "list": ([1, 2], JSON),
    "binary": (b"\xff\xfe\x00", {"content-type": "application/octet-stream"}),
}


@pytest.mark.parametrize("shape", BODIES)
@pytest.mark.parametrize("status", BY_STATUS)
def test_without_a_code_the_status_decides_whatever_the_body(status, shape):
    error = decoded(status, *BODIES[shape])
    assert error.code == BY_STATUS[status]
    assert type(error).__name__ == CODE_CLASSES[BY_STATUS[status]].__name__
    assert error.status == status
    assert error.is_retriable is (status in RETRIABLE_STATUSES)
    assert error.is_transient is (status in RETRIABLE_STATUSES - {429})
    assert str(status) in str(error)


@pytest.mark.parametrize("shape", BODIES)
def test_a_404_says_that_the_config_is_absent_in_the_platforms_own_words_only(shape):
    """A wrong base URL or a proxy's page read as "absent" would hide an outage."""
    error = decoded(404, *BODIES[shape])
    spoken = shape in {"flat", "envelope"}
    assert error.is_not_found is spoken
    assert error.is_route_problem is not spoken
    assert error.module == (Module.CONFIG if spoken else None)
    assert "base URL" in error.hint or spoken


@pytest.mark.parametrize("shape", BODIES)
def test_a_405_is_a_route_problem_of_no_module(shape):
    error = decoded(405, *BODIES[shape])
    assert error.is_route_problem
    assert not error.is_not_found
    assert error.module is None


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"404 page not found", TEXT),
        ({"detail": "Not Found"}, JSON),
        ({"message": "no Route matched with those values"}, JSON),
        (envelope("NOT_FOUND", details={"route": "/api/v2"}), JSON),
    ],
    ids=["go", "asgi", "gateway", "guide"],
)
def test_the_404s_of_routers_are_route_problems(body, headers):
    error = decoded(404, body, headers)
    assert error.is_route_problem
    assert not error.is_not_found
    assert error.module is None


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("Configuration not found: app/llm:model", "NOT_FOUND"),
        ("Version 99 not found", "VERSION_NOT_FOUND"),
        ("version v7 of app:model was not found", "VERSION_NOT_FOUND"),
    ],
)
@pytest.mark.parametrize("shape", ["flat", "text", "problem"])
def test_a_404_that_speaks_of_configs_or_versions_is_an_absence(message, code, shape):
    body, headers = {
        "flat": ({"error": "Not Found", "message": message}, JSON),
        "text": (message.encode(), TEXT),
        "problem": ({"title": "Not Found", "detail": message}, {"content-type": "application/problem+json"}),
    }[shape]
    error = decoded(404, body, headers)
    assert error.code == code
    assert error.is_not_found


def test_a_redirect_says_where_to_without_what_may_be_secret():
    headers = {**HTML, "location": "https://ann:hunter2@proxy.example/login?next=hunter2#hunter2"}
    error = decoded(308, b"<html>moved</html>", headers)
    assert error.message == "HTTP 308 Permanent Redirect, to https://proxy.example/login"
    assert "base URL" in error.hint
    assert "hunter2" not in repr(error.response)


@pytest.mark.parametrize(
    ("status", "is_told"), [(199, False), (300, True), (399, True), (400, False), (404, False), (503, False)]
)
def test_only_a_redirect_says_where_to(status, is_told):
    error = decoded(status, b"", {"location": "https://proxy.example/login"})
    assert ("proxy.example" in error.message) is is_told


# --- Rung 1: the envelope -----------------------------------------------------------------------


def test_the_guides_own_example_is_read_whole():
    body = {
        "code": "VALIDATION_ERROR",
        "message": "Invalid configuration key format",
        "details": {"field": "key", "reason": "Key must match pattern: [a-zA-Z0-9_.-]+"},
        "timestamp": "2024-01-15T10:30:00Z",
        "request_id": "req_abc123",
        "retriable": False,
    }
    error = decoded(422, {"error": body})
    assert isinstance(error, errors.ValidationError)
    assert error.message == body["message"]
    assert error.details == body["details"]
    assert (error.timestamp, error.request_id, error.server_retriable) == (NOW, "req_abc123", False)
    assert error.response.status == 422
    assert error.response.content_type == "application/json"


@pytest.mark.parametrize(("status", "cls"), [(503, "ServiceUnavailableError"), (418, "InvalidRequestError")])
def test_an_unknown_code_is_kept_and_the_status_chooses_the_class(status, cls):
    error = decoded(status, envelope("BRAND_NEW"))
    assert error.code == "BRAND_NEW"
    assert type(error).__name__ == cls
    assert "BRAND_NEW" in str(error)


def test_a_code_beats_its_status_and_both_are_kept():
    error = decoded(404, envelope("PERMISSION_DENIED"))
    assert error.is_permission_denied
    assert (error.code, error.status) == ("PERMISSION_DENIED", 404)


@pytest.mark.parametrize("headers", [JSON, {}, HTML, TEXT, {"content-type": "application/problem+json"}])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
def test_an_envelope_is_recognised_under_any_content_type(headers, bom):
    body = bom + json.dumps(envelope("DATABASE_ERROR")).encode()
    assert decoded(503, body, headers).code == "DATABASE_ERROR"


@pytest.mark.parametrize(
    ("details", "kept"),
    [(None, {}), ("why", {"description": "why"}), ([1], {"description": [1]}), (5, {"description": 5})],
)
def test_details_of_another_type_are_kept_as_a_description(details, kept):
    assert decoded(500, envelope("INTERNAL_ERROR", details=details)).details == kept


@pytest.mark.parametrize(
    ("named", "module"), [(None, "config"), (5, "config"), ("rbac", "rbac"), ("billing", None)]
)
def test_the_module_is_config_where_none_is_named(named, module):
    assert decoded(500, envelope("INTERNAL_ERROR", details={"module": named})).module == module


def test_a_request_id_comes_from_the_body_else_from_the_header():
    headers = {**JSON, "x-request-id": "from-header"}
    assert decoded(500, envelope("INTERNAL_ERROR"), headers).request_id == "req_abc123"
    assert decoded(500, envelope("INTERNAL_ERROR", request_id=None), headers).request_id == "from-header"
    assert decoded(500, b"", headers).request_id == "from-header"
    assert decoded(500, b"").request_id is None


# --- Rung 2: the flat family --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (404, {"error": "Not Found", "message": "gone"}, "NOT_FOUND", "gone"),
        (403, {"error": "x", "code": "PERMISSION_DENIED", "details": "no role"}, "PERMISSION_DENIED", "x"),
        (429, {"error": "Rate limited", "retry_after": 7}, "RATE_LIMIT_EXCEEDED", "Rate limited"),
        (500, {"error": "alone"}, "INTERNAL_ERROR", "alone"),
        (500, {"error": "DATABASE_ERROR"}, "DATABASE_ERROR", "DATABASE_ERROR"),
        (400, {"error": "x", "code": "BRAND_NEW"}, "BRAND_NEW", "x"),
        (400, {"error": "x", "code": "no-such-shape"}, "INVALID_REQUEST", "x"),
        (400, {"error": "x", "code": 400, "message": None}, "INVALID_REQUEST", "x"),
        (400, {"error": "", "message": ""}, "INVALID_REQUEST", "HTTP 400 Bad Request"),
    ],
)
def test_the_flat_family_is_read(status, body, code, message):
    error = decoded(status, body)
    assert (error.code, error.message) == (code, message)
    assert error.module is Module.CONFIG


def test_the_flat_familys_other_fields_are_kept():
    body = {"error": "x", "details": "why", "retry_after": 7, "retriable": False, "request_id": "r"}
    error = decoded(503, {**body, "timestamp": "2024-01-15T10:30:00Z"})
    assert error.details == {"description": "why"}
    assert (error.retry_after, error.retriable, error.request_id, error.timestamp) == (7.0, False, "r", NOW)


@pytest.mark.parametrize(
    ("message", "code", "retriable", "critical"),
    [
        ("Storage error: cannot write", "STORAGE_ERROR", True, False),
        ("Crypto error: Encryption failed: aead", "ENCRYPTION_ERROR", False, True),
        ("Crypto error: Decryption failed: aead", "DECRYPTION_ERROR", False, True),
        ("Validation error: Encryption key not configured", "ENCRYPTION_ERROR", False, True),
        ("Serialization error: bad record", "INTERNAL_ERROR", False, True),
        ("Something else", "INTERNAL_ERROR", True, False),
    ],
)
@pytest.mark.parametrize("shape", ["flat", "text"])
def test_a_500_of_the_older_server_is_refined_by_how_its_message_begins(
    message, code, retriable, critical, shape
):
    body = {"error": "Internal Server Error", "message": message}
    error = decoded(500, body) if shape == "flat" else decoded(500, message.encode(), TEXT)
    assert (error.code, error.is_retriable, error.is_critical) == (code, retriable, critical)
    assert error.status == 500


def test_the_prefix_means_nothing_below_500_and_nothing_against_a_code():
    message = "Storage error: no"
    assert decoded(400, {"error": "x", "message": message}).code == "INVALID_REQUEST"
    assert decoded(500, {"error": "x", "code": "INTERNAL_ERROR", "message": message}).code == "INTERNAL_ERROR"
    assert decoded(503, {"error": "x", "message": message}).code == "SERVICE_UNAVAILABLE"


@pytest.mark.parametrize("shape", ["flat", "text", "envelope"])
@pytest.mark.parametrize(("number", "kind"), OS_ERROR_KINDS.items())
def test_an_os_error_in_a_message_is_a_system_failure(number, kind, shape):
    message = f"Storage error: I/O error: failed (os error {number})"
    body, headers = {
        "flat": ({"error": "Internal Server Error", "message": message}, JSON),
        "text": (message.encode(), TEXT),
        "envelope": (envelope("STORAGE_ERROR", message=message), JSON),
    }[shape]
    error = decoded(500, body, headers)
    assert error.kind == kind
    assert error.code == "STORAGE_ERROR"
    assert error.category is ErrorCategory.SYSTEM
    assert not error.is_retriable
    assert isinstance(error, errors.SystemFailure)


@pytest.mark.parametrize("number", ["2", "0", "99999", "9" * 5000, "", "٢٨", "-28"])
def test_other_numbers_are_no_system_failure(number):
    error = decoded(500, {"error": "x", "message": f"Storage error: (os error {number})"})
    assert error.category is ErrorCategory.SERVER
    assert error.is_retriable


def test_a_kind_that_the_server_names_is_not_overwritten_by_its_message():
    details = {"kind": "Interrupted"}
    error = decoded(500, envelope("STORAGE_ERROR", message="(os error 28)", details=details))
    assert error.kind == "Interrupted"
    assert error.category is ErrorCategory.SERVER


# --- Rungs 3 to 6 -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document", [{"status": "unhealthy"}, {"error": None}, {"error": [1]}, {}, [], None, 5, "x"]
)
def test_other_json_is_kept_as_the_body(document):
    error = decoded(503, document)
    assert error.code == "SERVICE_UNAVAILABLE"
    assert error.response.body == document
    assert error.message == "HTTP 503 Service Unavailable"
    assert "unhealthy" not in repr(error.response)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ({"title": "Out of credit", "detail": "You have 5"}, "Out of credit: You have 5"),
        ({"title": "Out of credit"}, "Out of credit"),
        ({"detail": "You have 5", "title": 7}, "You have 5"),
    ],
)
def test_a_problem_document_speaks_through_title_and_detail(problem, message):
    assert decoded(400, problem, {"content-type": "application/problem+json"}).message == message


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (400, "Invalid URL: Invalid UTF-8 in `namespace`", "INVALID_REQUEST"),
        (400, 'Invalid URL: Cannot parse value at index 2 with value `"abc"` to a `u64`', "INVALID_REQUEST"),
        (
            400,
            "Failed to deserialize query string: provided string was not `true` or `false`",
            "INVALID_REQUEST",
        ),
        (
            400,
            "Failed to parse the request body as JSON: EOF while parsing at line 1 column 0",
            "INVALID_REQUEST",
        ),
        (413, "Failed to buffer the request body: length limit exceeded", "INVALID_REQUEST"),
        (415, "Expected request with `Content-Type: application/json`", "INVALID_REQUEST"),
        (
            422,
            "Failed to deserialize the JSON body into the target type: missing field `env`",
            "VALIDATION_ERROR",
        ),
        (400, "12345", "INVALID_REQUEST"),
        (400, "null", "INVALID_REQUEST"),
    ],
)
def test_a_plain_text_is_the_message(status, text, code):
    error = decoded(status, text.encode(), TEXT)
    assert (error.message, error.code, error.status) == (text, code, status)
    assert error.module is Module.CONFIG
    assert not error.is_retriable


@pytest.mark.parametrize(
    ("status", "message", "word"),
    [
        (400, "Request rejected due to security policy", "filter"),
        (426, "Insecure protocol: TLS is required", "X-Forwarded-Proto: https"),
        (429, "Rate limit exceeded. Please try again later", "ban"),
    ],
)
def test_the_older_servers_refusals_say_what_to_do(status, message, word):
    error = decoded(status, {"error": "Reason", "message": message})
    assert error.message == message
    assert word in error.hint


def test_a_long_text_is_cut_even_in_the_middle_of_a_character():
    error = decoded(400, b"x" * 3 + "€".encode() * 400_000, TEXT)
    assert error.message == "xxx" + "€" * 997 + "…"


@pytest.mark.parametrize("status", [403, 413, 429, 502, 503, 504, 308])
@pytest.mark.parametrize("headers", [HTML, {}, TEXT, JSON])
def test_no_markup_of_a_page_goes_into_the_message(status, headers):
    page = b"\n<html><head><title>Bad Gateway</title></head></html>"
    error = decoded(status, page, headers)
    assert "<" not in str(error)
    assert error.message.startswith(f"HTTP {status} ")
    assert error.response.snippet == page.decode()
    assert "html>" not in repr(error)
    assert "html>" not in repr(error.response)


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe\x00\x01",
        b'{"error": {"code": "NOT_FOU',
        b'{"error": "\\ud800"}',
        b"[" * 5000,
        b'{"a":' * 5000,
    ],
    ids=["bytes", "cut", "surrogate", "lists", "objects"],
)
def test_what_cannot_be_read_is_kept_aside_and_bounded(body):
    error = decoded(500, body)
    assert error.code == "INTERNAL_ERROR"
    assert error.message == "HTTP 500 Internal Server Error"
    assert 0 < len(error.response.snippet) <= decoding.SNIPPET_LIMIT


def test_only_headers_that_are_safe_to_show_are_kept_and_bounded():
    headers = {
        **JSON,
        "set-cookie": "hunter2",
        "authorization": "Bearer hunter2",
        "www-authenticate": "hunter2",
        "x-token": "hunter2",
        "server": "nginx\n" * 1000,
        "allow": "GET,HEAD",
    }
    error = decoded(405, b"", headers)
    assert "hunter2" not in repr(error.response)
    assert error.response.headers["allow"] == "GET,HEAD"
    assert "\n" not in error.response.headers["server"]
    assert len(error.response.headers["server"]) < 300


# --- Hostile bytes ------------------------------------------------------------------------------


def test_huge_bodies_cost_little_time_and_are_not_kept():
    """Thirty megabytes of JSON are neither parsed nor kept."""
    huge = b'{"error": {"message": "' + b"x" * 30_000_000 + b'"}}'
    began = time.thread_time()  # this thread's own: what else the machine does is no matter
    error = decoded(500, huge)
    assert time.thread_time() - began < 0.5
    assert len(pickle.dumps(error)) < 5000
    assert error.code == "INTERNAL_ERROR"


def test_nothing_a_server_says_can_forge_a_line_of_a_log():
    evil = "a\nERROR root: forged\r\x1b[2J\x00\u2028\u202e\x85"
    body = envelope(evil, message=evil, request_id=evil)
    for error in (
        decoded(500, body),
        decoded(500, evil.encode(), {"x-request-id": evil, "content-type": evil}),
    ):
        for text in (error.message, str(error), repr(error), str(error.request_id), repr(error.response)):
            assert not set(text) & set("\n\r\x1b\x00\u2028\u202e\x85")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
header_names = st.sampled_from(
    ["content-type", "retry-after", "date", "x-request-id", "location", "allow", "x"]
)
header_values = st.text() | st.sampled_from(
    ["application/json", "text/plain", "text/html", "120", "Fri, 31 Dec 1999 23:59:59 GMT", "-1", "//["]
)
bodies = (
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.text().map(lambda text: text.encode(errors="replace"))
)


def assert_sound(error):
    assert isinstance(error, LLMConfigError)
    for text in (str(error), repr(error), error.message, error.hint):
        assert len(text.splitlines()) == 1
        assert len(text) < 4000
        text.encode()
    assert error.retry_after is None or 0 <= error.retry_after < 1e9
    assert error.details == dict(error.details)
    assert type(pickle.loads(pickle.dumps(error))) is type(error)


@unhurried
@given(st.integers(), st.dictionaries(header_names, header_values), bodies)
def test_any_status_headers_and_bytes_become_an_error_of_ours(status, headers, body):
    assert_sound(decode_error(Reply(status, headers, body)))


@unhurried
@given(
    st.sampled_from([200, 201, 204]),
    st.dictionaries(header_names, header_values),
    bodies,
    st.sampled_from(
        [
            decoding.read_entry,
            decoding.read_entries,
            decoding.read_history,
            decoding.read_health,
            decoding.read_json,
        ]
    ),
)
def test_any_success_is_read_or_becomes_a_decode_error(status, headers, body, read):
    try:
        read(Reply(status, headers, body))
    except ResponseDecodeError as error:
        assert_sound(error)


@unhurried
@given(
    st.sampled_from(sorted(CODES)),
    st.text(),
    st.dictionaries(st.text(), json_values, max_size=3),
    st.booleans(),
)
def test_an_envelope_comes_back_as_it_was_sent(code, message, details, retriable):
    body = envelope(code.value, message=message, details=details, retriable=retriable)
    error = decoded(CODES[code].status, json.dumps(body).encode("utf-8", "replace"))
    assert error.code is code
    assert error.server_retriable is retriable
    assert set(error.details) >= set(details)
    assert (error.timestamp, error.request_id) == (NOW, "req_abc123")


@unhurried
@given(
    st.sampled_from(["error", *TAXONOMY["envelope_fields"]]), json_values, st.sampled_from(sorted(BY_STATUS))
)
def test_any_field_of_an_envelope_may_be_any_json(field, value, status):
    body = {"error": value} if field == "error" else envelope(**{"code": "NOT_FOUND", field: value})
    error = decoded(status, body)
    assert_sound(error)
    if field not in {"error", "code"}:
        assert error.code is ErrorCode.NOT_FOUND


@unhurried
@given(st.sampled_from(["module", "variant", "kind", "route", "retry_after"]), json_values)
def test_any_detail_may_be_any_json(name, value):
    assert_sound(decoded(500, envelope("STORAGE_ERROR", details={name: value})))


@pytest.mark.parametrize("kind", sorted(SYSTEM_KINDS))
def test_a_kind_alone_makes_a_system_failure(kind):
    assert isinstance(decoded(500, envelope("STORAGE_ERROR", details={"kind": kind})), errors.SystemFailure)


# --- Retry-After --------------------------------------------------------------------------------

YEAR = 366 * 24 * 3600.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0.5", 0.5),
        ("9" * 30, YEAR),
        ("Mon, 15 Jan 2024 10:30:05 GMT", 5.0),
        ("Monday, 15-Jan-24 10:30:05 GMT", 5.0),
        ("Mon, 15 Jan 2024 12:30:05 +0200", 5.0),
        ("Mon, 15 Jan 2024 10:29:00 GMT", 0.0),
        ("Mon, 15 Jan 2124 10:30:05 GMT", YEAR),
        (f"Mon, 15 Jan 2024 10:30:05{'GMT':>175}", 5.0),
        (f"Mon, 15 Jan 2024 10:30:05{'GMT':>176}", None),  # more than a header is read of
        (None, None),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("NaN", None),
        ("inf", None),
        ("1e3", None),
        ("1_000", None),
        ("0x10", None),
        ("٣", None),
        ("5, 5", None),
        ("Mon, 99 Jan 2024 10:30:05 GMT", None),
        ("Mon, 15 Jan 2024 10:30:05 +9999", None),
        ("9" * 1_000_000, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value, seconds):
    assert parse_retry_after(value, now=NOW) == seconds


@unhurried
@given(st.text() | st.text("0123456789 :,+-GMTJanFri", max_size=40))
def test_any_retry_after_is_a_bounded_number_or_nothing(value):
    seconds = parse_retry_after(value)
    assert seconds is None or 0.0 <= seconds <= YEAR


@unhurried
@given(st.integers(0, 10**6))
def test_a_date_so_many_seconds_away_is_so_many_seconds(seconds):
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(date, now=NOW) == seconds


def test_a_date_is_compared_with_the_present_where_nothing_else_is_given():
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert parse_retry_after(later) == pytest.approx(3600, abs=120)


def test_a_date_is_compared_with_the_servers_own_clock():
    """A client whose clock is wrong waits as long as the server means."""
    headers = {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT", "date": "Fri, 31 Dec 1999 23:59:29 GMT"}
    assert decoded(503, b"", headers).retry_after == 30.0


def test_the_header_beats_the_body():
    body = envelope("RATE_LIMIT_EXCEEDED", details={"retry_after": 9})
    assert decoded(429, body).retry_after == 9.0
    assert decoded(429, body, {**JSON, "retry-after": "3"}).retry_after == 3.0
    assert decoded(429, body, {**JSON, "retry-after": "soon"}).retry_after == 9.0
    assert decoded(429, {"error": {"retry_after": "4"}}).retry_after == 4.0
    assert decoded(429, b"").retry_after is None


@pytest.mark.parametrize("value", [True, -1, "soon", None, [], {}, float("nan")])
def test_a_delay_in_the_body_that_makes_no_sense_is_none(value):
    assert decoded(429, {"error": "x", "retry_after": value}).retry_after is None


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ("2024-01-15T10:30:00Z", NOW),
        ("2024-01-15T12:30:00+02:00", NOW),
        ("2024-01-15T10:30:00", NOW),
        ("2024-01-15T10:30:00.000000999Z", NOW),
        ("yesterday", None),
        ("", None),
        (None, None),
        (1705314600, None),
    ],
)
def test_a_timestamp_is_read_with_its_offset_or_not_at_all(sent, read):
    assert decoded(500, envelope("INTERNAL_ERROR", timestamp=sent)).timestamp == read


# --- Successes ----------------------------------------------------------------------------------


def test_an_entry_and_a_list_of_entries_are_read():
    assert decoding.read_entry(reply(200, ENTRY)).value == "gpt-4"
    both = [{**ENTRY, "key": "b"}, {**ENTRY, "key": "a"}]
    assert [entry.key for entry in decoding.read_entries(reply(200, both))] == ["b", "a"]
    assert decoding.read_entries(reply(200, [])) == []


def test_a_history_is_read_newest_first():
    items = [
        {"version": number, "value": CIPHERTEXT, "created_at": "2024-01-15T10:30:00Z", "created_by": "ann"}
        for number in (2, 3, 1)
    ]
    history = decoding.read_history(reply(200, items))
    assert [item.version for item in history] == [3, 2, 1]
    assert all(item.is_redacted for item in history)


def test_health_and_any_json_are_read_and_an_empty_reply_is_none():
    assert decoding.read_health(reply(200, {"status": "healthy"})).is_healthy
    assert decoding.read_json(reply(200, {"a": [2**70]})) == {"a": [2**70]}
    assert decoding.read_json(reply(204)) is None
    assert decoding.read_nothing(reply(204)) is None


READERS = [decoding.read_entry, decoding.read_entries, decoding.read_history, decoding.read_health]
WRONG = {
    "html": (b"<html>Please log in</html>", HTML, "HTML page"),
    "empty": (b"", {}, "empty"),
    "cut": (b'{"id": "1", "namesp', JSON, "Invalid JSON"),
    "null": (b"null", JSON, "Input should be"),
    "number": (b"5", JSON, "Input should be"),
    "binary": (b"\xff\x00", JSON, "Invalid JSON"),
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("shape", WRONG)
def test_a_success_of_the_wrong_shape_is_a_decode_error(read, shape):
    body, headers, words = WRONG[shape]
    with pytest.raises(ResponseDecodeError, match=words) as caught:
        read(reply(200, body, {**headers, "x-request-id": "req_1"}))
    error = caught.value
    assert (error.code, error.status, error.request_id) == (None, None, "req_1")
    assert error.response.status == 200
    assert error.__cause__ is not None
    assert not error.is_retriable
    assert (error.response.snippet is not None) is (shape == "html")


@pytest.mark.parametrize("body", [b"<html>", b"{", b"\xff"])
def test_json_that_is_none_is_a_decode_error(body):
    with pytest.raises(ResponseDecodeError, match="not JSON"):
        decoding.read_json(reply(200, body))


def test_a_decode_error_names_the_faults_by_their_place():
    with pytest.raises(ResponseDecodeError, match=r"1\.version: Input should be a valid integer") as caught:
        decoding.read_entries(reply(200, [ENTRY, {**ENTRY, "version": "one"}]))
    assert "expected a list of config entries" in str(caught.value)


def test_a_decode_error_names_the_first_three_faults_of_many():
    with pytest.raises(ResponseDecodeError) as caught:
        decoding.read_entries(reply(200, [{**ENTRY, "version": "one"}] * 5))
    assert str(caught.value).count(".version: ") == 3


WITH_SECRETS = {
    "cut list": b'[{"value": "hunter2", "secret": true',
    "cut object": b'{"value": "hunter2", "secret": true',
    "list": b'["hunter2"]',
    "string": b'"hunter2"',
    "entries": json.dumps([{**ENTRY, "value": "hunter2", "secret": True, "version": 0}]).encode(),
    "entry": json.dumps({**ENTRY, "value": "hunter2", "secret": True, "version": 0}).encode(),
}


@pytest.mark.parametrize(
    ("read", "shape"),
    [
        *[(read, shape) for read in READERS for shape in WITH_SECRETS],
        (decoding.read_json, "cut list"),
        (decoding.read_json, "cut object"),
    ],
)
def test_no_value_of_an_unreadable_success_is_in_the_error_or_its_traceback(read, shape):
    with pytest.raises(ResponseDecodeError) as caught:
        read(reply(200, WITH_SECRETS[shape]))
    error = caught.value
    text = "".join(traceback.format_exception(error))
    assert "hunter2" not in f"{text} {error!r} {error.response!r} {pickle.dumps(error)!r}"


def test_a_reply_shows_no_body():
    it = Reply(200, {"content-type": "Application/JSON ; charset=utf-8"}, b"hunter2")
    assert "hunter2" not in repr(it)
    assert it.media_type == "application/json"
    assert [Reply(status, {}, b"").is_success for status in (199, 200, 204, 299, 300)] == [0, 1, 1, 1, 0]

"""Entries: frozen, with values of the caller's own, and with secrets that nothing shows."""

import copy
import json
import pickle
import time
import traceback

import pydantic
import pytest
from hypothesis import given, settings, strategies as st
from pydantic import SecretStr

from llm_config_sdk.contract import WRITTEN_PLACEHOLDER, Environment
from llm_config_sdk.entries import ConfigEntry, HistoryEntry, Provenance, is_redacted
from llm_config_sdk.errors import NotFoundError, RequestTimeoutError

unhurried = settings(deadline=None)  # a busy machine is no defect
SECRET = "sk-live-5f0a"
CIPHERTEXT = {"algorithm": "aes-256-gcm", "nonce": "00" * 12, "ciphertext": "ff" * 20, "key_version": 1}
BODY = {
    "id": "550e8400-e29b-41d4-a716-446655440000",
    "namespace": "app/llm",
    "key": "model",
    "value": "gpt-4",
    "environment": "production",
    "version": 3,
    "metadata": {
        "created_at": "2024-01-15T10:30:00.123456789+00:00",
        "created_by": "ann",
        "updated_at": "2024-01-16T10:30:00Z",
        "updated_by": "bob",
        "tags": ["llm"],
        "description": None,
    },
}


def entry(**changes):
    return ConfigEntry.model_validate_json(json.dumps({**BODY, **changes}))


def version(**changes):
    body = {"version": 1, "value": "gpt-4", "created_at": "2024-01-15T10:30:00Z", "created_by": "ann"}
    return HistoryEntry.model_validate_json(json.dumps({**body, **changes}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def test_an_entry_holds_what_the_wire_says():
    it = entry()
    assert (it.id, it.namespace, it.key, it.value, it.version) == (BODY["id"], "app/llm", "model", "gpt-4", 3)
    assert it.environment is Environment.PRODUCTION
    assert it.metadata.created_at.microsecond == 123456
    assert it.metadata.tags == ("llm",)
    assert it.secret is False
    assert it.etag == '"550e8400-e29b-41d4-a716-446655440000.3"'


@unhurried
@given(json_values)
def test_any_json_comes_back_as_the_value_it_is(value):
    """Integers of any size stay exact, floats stay floats, null stays null."""
    got = entry(value=value).value
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize("number", [2**53 + 1, 2**63 - 1, 2**64 - 1, -(2**63), 10**40])
def test_big_integers_are_exact_in_values(number):
    assert entry(value={"n": [number]}).value["n"][0] == number


def test_a_version_may_be_any_unsigned_64_bit_number_from_one():
    assert entry(version=2**64 - 1).version == 2**64 - 1
    with pytest.raises(pydantic.ValidationError, match="greater than or equal to 1"):
        entry(version=0)


@pytest.mark.parametrize("field", ["id", "namespace", "key", "value", "environment", "version", "metadata"])
def test_every_field_of_the_wire_is_required(field):
    body = {name: value for name, value in BODY.items() if name != field}
    with pytest.raises(pydantic.ValidationError, match="Field required"):
        ConfigEntry.model_validate(body)


@pytest.mark.parametrize("field", ["key", "value", "stored_value", "source", "is_stale"])
def test_an_entry_is_frozen(field):
    it = entry()
    with pytest.raises((pydantic.ValidationError, AttributeError)):
        setattr(it, field, "other")
    assert (it.key, it.value, it.source, it.is_stale) == ("model", "gpt-4", "server", False)


def test_a_caller_may_change_a_value_without_changing_it_for_others():
    it = entry(value={"models": ["a", {"b": 1}]})
    it.value["models"][1]["b"] = 2
    it.value["models"].append("c")
    assert it.value == {"models": ["a", {"b": 1}]}


# --- Provenance ---------------------------------------------------------------------------------


def test_a_fresh_entry_comes_from_the_server():
    it = entry()
    assert (it.source, it.endpoint, it.error, it.attempts, it.is_stale) == ("server", None, None, 1, False)


@pytest.mark.parametrize(
    ("source", "stale"),
    [("server", False), ("cache", False), ("stale", True), ("snapshot", True), ("default", False)],
)
def test_provenance_says_where_a_copy_came_from(source, stale):
    error = RequestTimeoutError("too slow")
    provenance = Provenance(source=source, endpoint="http://a", fetched_at=0.0, error=error, attempts=2)
    it = entry().with_provenance(provenance)
    assert (it.source, it.endpoint, it.error, it.attempts) == (source, "http://a", error, 2)
    assert it.is_stale is stale


def test_provenance_takes_no_part_in_equality_and_leaves_the_original_alone():
    original = entry()
    twin = original.with_provenance(Provenance(source="stale", fetched_at=0.0, error=NotFoundError("gone")))
    assert twin == original
    assert original.source == "server"
    assert entry(version=4) != original


def test_age_counts_from_when_a_server_sent_the_value_and_is_never_negative():
    now = time.time()
    assert entry().with_provenance(Provenance(fetched_at=now - 60)).age == pytest.approx(60, abs=30)
    assert entry().with_provenance(Provenance(fetched_at=now + 3600)).age == 0.0


# --- Secrets ------------------------------------------------------------------------------------


def shown(it):
    return f"{it!r} {it} {it.model_dump_json()} {it.model_dump()} {pickle.dumps(it)!r} {[it]!r} {vars(it)}"


@pytest.mark.parametrize("secret", [SECRET, {"token": SECRET}, [SECRET], SECRET * 3])
def test_a_secret_is_wrapped_and_shown_nowhere(secret):
    it = entry(value=secret, secret=True)
    assert isinstance(it.value, SecretStr)
    assert SECRET in it.value.get_secret_value()
    assert SECRET not in shown(it)
    assert not it.is_redacted


def test_a_plain_value_is_not_in_the_repr_either():
    """A 0.5 server does not say which values are secrets."""
    assert "gpt-4" not in f"{entry()!r} {entry()}"
    assert "gpt-4" not in repr(version())


def test_a_repr_names_the_entry():
    text = repr(entry())
    for part in ("app/llm", "model", "'production'", "version=3", "source='server'"):
        assert part in text


def test_a_value_known_to_be_secret_only_here_is_wrapped_by_as_secret():
    it = entry(value=SECRET).with_provenance(Provenance(source="cache")).as_secret()
    assert it.secret
    assert it.value == SecretStr(SECRET)
    assert it.source == "cache"
    assert it.as_secret() is it
    assert SECRET not in shown(it)


def test_a_secret_in_a_body_that_is_no_entry_is_not_in_the_error():
    with pytest.raises(pydantic.ValidationError) as caught:
        entry(value=SECRET, secret=True, version="none")
    text = "".join(traceback.format_exception(caught.value))
    assert SECRET not in text
    assert "version" in text


@pytest.mark.parametrize("value", ["<encrypted>", "[ENCRYPTED]", CIPHERTEXT])
@pytest.mark.parametrize("flag", [{}, {"secret": True}, {"secret": False}])
def test_placeholders_and_ciphertext_are_recognised_and_never_handed_out(value, flag):
    it = entry(value=value, **flag)
    assert it.is_redacted
    assert it.secret
    assert it.value == SecretStr(WRITTEN_PLACEHOLDER)
    assert CIPHERTEXT["ciphertext"] not in shown(it)


@pytest.mark.parametrize(
    "value", ["encrypted", "", None, {}, {"algorithm": "x"}, {**CIPHERTEXT, "aad": ""}, [CIPHERTEXT], 5]
)
def test_other_values_are_not_taken_for_redacted_ones(value):
    it = entry(value=value)
    assert not it.is_redacted
    assert not it.secret
    assert it.value == value


@pytest.mark.parametrize("value", ["<encrypted>", SecretStr("<encrypted>"), CIPHERTEXT])
def test_is_redacted_looks_into_wrapped_values(value):
    assert is_redacted(value)
    assert not is_redacted(SecretStr(SECRET))


@pytest.mark.parametrize(
    "change", [{"value": CIPHERTEXT}, {"value": "[ENCRYPTED]"}, {"value": SECRET, "secret": True}]
)
def test_history_redacts_what_was_a_secret(change):
    item = version(**change)
    assert item.is_redacted
    assert item.value == SecretStr(WRITTEN_PLACEHOLDER)
    assert SECRET not in shown(item)


def test_history_holds_what_the_wire_says():
    item = version(value={"a": [1]}, change_description="Rollback to version 1")
    item.value["a"].append(2)
    assert item.value == {"a": [1]}
    assert (item.version, item.created_by, item.change_description) == (1, "ann", "Rollback to version 1")
    assert version().change_description is None
    assert not item.is_redacted


# --- Copies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, ConfigEntry.model_copy])
@pytest.mark.parametrize("body", [{}, {"value": {"a": [1]}}, {"value": SECRET, "secret": True}])
def test_a_copy_in_memory_is_the_same_entry(copied, body):
    original = entry(**body).with_provenance(Provenance(source="stale", attempts=3))
    twin = copied(original)
    assert twin == original
    assert twin.value == original.value
    assert (twin.source, twin.attempts) == ("stale", 3)


def test_a_plain_entry_survives_pickling_with_its_provenance():
    error = NotFoundError("gone", code="NOT_FOUND", status=404)
    original = entry(value={"a": [1]}).with_provenance(
        Provenance(source="stale", error=error, endpoint="http://a")
    )
    twin = pickle.loads(pickle.dumps(original))
    assert twin == original
    assert (twin.source, twin.endpoint, twin.value) == ("stale", "http://a", {"a": [1]})
    assert twin.error.is_not_found


def test_a_secret_comes_out_of_a_pickle_redacted_and_stays_in_the_original():
    original = entry(value=SECRET, secret=True)
    twin = pickle.loads(pickle.dumps(original))
    assert twin.is_redacted
    assert twin.secret
    assert original.value == SecretStr(SECRET)

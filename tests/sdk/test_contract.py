"""The wire contract: environments, names, and the guide's tables."""

import json
import string
from pathlib import Path

import pydantic
import pytest
from hypothesis import given, settings, strategies as st

from llm_config_sdk import contract
from llm_config_sdk.contract import (
    CODES,
    VARIANTS,
    Environment,
    ErrorCategory,
    ErrorCode,
    Health,
    Metadata,
    Module,
)

unhurried = settings(deadline=None)  # a busy machine is no defect
TAXONOMY = json.loads((Path(__file__).parent / "fixtures" / "error_taxonomy.json").read_text())
NAMES = [*Environment, "dev", "stage", "prod"]


@pytest.mark.parametrize(
    ("alias", "canonical"),
    [
        ("dev", Environment.DEVELOPMENT),
        ("stage", Environment.STAGING),
        ("prod", Environment.PRODUCTION),
        ("PROD", Environment.PRODUCTION),
        ("Staging", Environment.STAGING),
        *[(environment.value, environment) for environment in Environment],
    ],
)
def test_an_environment_is_read_by_name_alias_and_letter_case(alias, canonical):
    assert Environment.parse(alias) is canonical
    assert Environment.parse(canonical) is canonical


@unhurried
@given(st.data(), st.sampled_from(NAMES))
def test_any_letter_case_of_any_name_is_read(data, name):
    cased = "".join(data.draw(st.sampled_from([letter.upper(), letter])) for letter in name)
    assert Environment.parse(cased) is Environment.parse(name)


@pytest.mark.parametrize("name", ["", "test", "pro", " prod", "prod ", "production\n", "\uff30rod", None, 5])
def test_what_is_no_environment_is_refused_with_the_names_that_are(name):
    with pytest.raises(ValueError, match="base, dev, development, edge, prod"):
        Environment.parse(name)


def test_a_refusal_shows_no_more_than_the_beginning_of_a_long_name():
    with pytest.raises(ValueError, match="unknown environment") as caught:
        Environment.parse("x" * 100_000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("environment", "order"),
    [
        ("base", ["base"]),
        ("development", ["base", "development"]),
        ("staging", ["base", "development", "staging"]),
        ("production", ["base", "development", "staging", "production"]),
        ("edge", ["base", "edge"]),
    ],
)
def test_overrides_are_looked_up_from_the_lowest_to_the_environment_itself(environment, order):
    assert list(Environment.parse(environment).overrides) == order


# --- Names --------------------------------------------------------------------------------------

_WORD = string.ascii_letters + string.digits + "_-"


@unhurried
@given(st.text(_WORD + "/", min_size=1, max_size=256))
def test_documented_namespaces_are_accepted(namespace):
    assert contract.namespace_problem(namespace) is None


@unhurried
@given(st.text(_WORD + ".", min_size=1, max_size=128))
def test_documented_keys_are_accepted(key):
    assert contract.key_problem(key) is None


@pytest.mark.parametrize("name", ["", "a b", "a\n", "\na", "ä", "a:b", "a%2Fb", "a\x00", "a'", "a;b", "٣"])
def test_other_characters_are_refused_in_namespaces_and_keys(name):
    assert (contract.namespace_problem(name) or "").startswith("namespace must")
    assert (contract.key_problem(name) or "").startswith("key must")


def test_a_slash_belongs_to_namespaces_and_a_dot_to_keys():
    assert contract.namespace_problem("a/b") is None
    assert contract.key_problem("a.b") is None
    assert contract.namespace_problem("a.b") == "namespace must match pattern: [a-zA-Z0-9/_-]+"
    assert contract.key_problem("a/b") == "key must match pattern: [a-zA-Z0-9_.-]+"


@pytest.mark.parametrize(
    ("judge", "longest"), [(contract.namespace_problem, 256), (contract.key_problem, 128)]
)
def test_the_longest_name_is_accepted_and_one_more_character_is_not(judge, longest):
    assert judge("x" * longest) is None
    assert judge("x" * (longest + 1)).endswith(f"at most {longest} characters, not {longest + 1}")


@pytest.mark.parametrize("name", [None, 5, b"bytes", ["a"]])
def test_a_name_that_is_no_string_is_refused_by_its_type(name):
    assert contract.key_problem(name) == f"key must be a string, not {type(name).__name__}"


# --- The guide's tables -------------------------------------------------------------------------


def test_the_codes_are_the_guides_seventeen():
    ours = [
        {
            "code": code.value,
            "status": facts.status,
            "retriable": facts.retriable,
            "category": facts.category.value,
            "description": facts.description,
        }
        for code, facts in CODES.items()
    ]
    assert ours == TAXONOMY["codes"]
    assert len(ours) == len(ErrorCode) == 17


def test_the_variants_are_the_guides_thirty_six():
    keys = ("variant", "code", "status", "retriable", "category")
    theirs = {
        module: [tuple(row[key] for key in keys) for row in rows]
        for module, rows in TAXONOMY["modules"].items()
    }
    ours = {module.value: [] for module in Module}
    for (module, variant), facts in VARIANTS.items():
        assert (facts.module, facts.variant) == (module, variant)
        ours[module.value].append((variant, facts.code, facts.status, facts.retriable, facts.category))
    assert ours == theirs
    assert len(VARIANTS) == 36


def test_encryption_decryption_and_serialization_are_critical_and_nothing_else():
    critical = {(module, variant) for (module, variant), facts in VARIANTS.items() if facts.critical}
    assert critical == {
        ("config", "EncryptionError"),
        ("config", "DecryptionError"),
        ("crypto", "EncryptionFailed"),
        ("crypto", "DecryptionFailed"),
        ("crypto", "KeyGenerationFailed"),
        ("config", "SerializationError"),
        ("cache", "SerializationError"),
    }
    assert {code for code, facts in CODES.items() if facts.critical} == {
        "ENCRYPTION_ERROR",
        "DECRYPTION_ERROR",
    }


def test_the_categories_and_the_envelopes_fields_are_the_guides():
    assert [category.value for category in ErrorCategory] == TAXONOMY["categories"]
    assert contract.ErrorBody.__required_keys__ == TAXONOMY["envelope_fields"].keys()


def test_the_guides_system_kinds_are_ours_and_every_os_error_is_one():
    for rows in TAXONOMY["modules"].values():
        for row in rows:
            assert contract.SYSTEM_KINDS.issuperset(row.get("system_kinds", ()))
    assert set(contract.OS_ERROR_KINDS) == {1, 5, 12, 13, 24, 28, 30, 36, 122}
    assert set(contract.OS_ERROR_KINDS.values()) == contract.SYSTEM_KINDS


@pytest.mark.parametrize("table", [CODES, VARIANTS, contract.OS_ERROR_KINDS])
def test_nobody_can_change_the_tables(table):
    with pytest.raises(TypeError, match="item assignment"):
        table[next(iter(table))] = None


# --- Bodies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "healthy"),
    [("healthy", True), ("OK", True), ("up", True), ("degraded", False), ("", False), ("unhealthy", False)],
)
def test_a_health_report_says_whether_the_server_is_well(status, healthy):
    assert Health(status=status).is_healthy is healthy


def test_bodies_are_frozen_and_ignore_what_this_version_does_not_know():
    health = Health.model_validate_json('{"status": "healthy", "version": "0.5.0", "uptime": 5}')
    assert (health.version, health.service) == ("0.5.0", "")
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        health.status = "down"


def test_metadata_keeps_nine_fractional_digits_as_microseconds_and_the_offset():
    metadata = Metadata.model_validate_json(
        '{"created_at": "2024-01-15T10:30:00.123456789+02:00", "created_by": "ann",'
        ' "updated_at": "2024-01-15T10:30:00Z", "updated_by": "bob"}'
    )
    assert metadata.created_at.isoformat() == "2024-01-15T10:30:00.123456+02:00"
    assert metadata.updated_at.isoformat() == "2024-01-15T10:30:00+00:00"
    assert (metadata.tags, metadata.description) == ((), None)

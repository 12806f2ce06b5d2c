"""From a stored value to the type that is wanted."""

import enum
from typing import Annotated, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field, SecretStr

from llm_config_sdk.entries import ConfigEntry, Provenance
from llm_config_sdk.errors import InvalidRequestError, InvalidValueError
from llm_config_sdk.values import convert

MOMENT = "2024-01-15T10:30:00Z"


def entry(value, *, secret=False):
    return ConfigEntry.model_validate(
        {
            "id": "i",
            "namespace": "app",
            "key": "n",
            "value": value,
            "environment": "production",
            "version": 1,
            "secret": secret,
            "metadata": {"created_at": MOMENT, "created_by": "a", "updated_at": MOMENT, "updated_by": "a"},
        }
    )


class Colour(enum.Enum):
    RED = "red"


class Model(BaseModel):
    name: str
    limits: dict[str, int] = {}


@pytest.mark.parametrize(
    ("stored", "wanted", "expected"),
    [
        ("5", int, 5),
        (1, bool, True),
        ("red", Colour, Colour.RED),
        ("a", Literal["a", "b"], "a"),
        ([1, "2"], list[int], [1, 2]),
        ({"name": "x", "limits": {"rps": 1}}, Model, Model(name="x", limits={"rps": 1})),
        (5, Annotated[int, Field(gt=1)], 5),
        (None, int | None, None),
    ],
    ids=str,
)
def test_any_type_of_pydantics_is_validated_to(stored, wanted, expected):
    assert convert(entry(stored), wanted) == expected


@pytest.mark.parametrize(
    ("stored", "wanted", "told"),
    [
        ("x", int, "expected int, found string"),
        (None, str, "expected str, found null"),
        ([1], dict[str, int], "expected dict[str, int], found array"),
        ({"name": 1}, Model, "expected Model, found object: name: "),
        (True, Colour, "found boolean"),
        (1, Annotated[int, Field(gt=1)], "found integer"),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_described_without_being_shown(stored, wanted, told):
    with pytest.raises(InvalidValueError) as caught:
        convert(entry(stored), wanted)
    assert told in caught.value.message
    assert (caught.value.namespace, caught.value.key, caught.value.environment) == ("app", "n", "production")
    assert caught.value.__cause__ is None, "pydantic's own error shows its input"


def test_a_secret_is_opened_for_who_asks_for_text_and_kept_for_who_asks_for_a_secret():
    secret = entry("s3cr3t", secret=True)
    assert convert(secret, str) == "s3cr3t"
    assert convert(secret, SecretStr) == SecretStr("s3cr3t")
    assert convert(secret, SecretStr | None) == SecretStr("s3cr3t")


def test_a_message_about_a_secret_quotes_nothing_of_it():
    def judge(value: str) -> str:
        raise ValueError(f"{value} will not do")

    with pytest.raises(InvalidValueError) as caught:
        convert(entry("s3cr3t", secret=True), Annotated[str, AfterValidator(judge)])
    assert "s3cr3t" not in f"{caught.value} {caught.value!r}"
    assert "secret string" in caught.value.message


def test_a_default_comes_back_as_the_very_same_object():
    sentinel = object()
    stand_in = ConfigEntry.model_construct(stored_value=sentinel, namespace="a", key="n")
    assert convert(stand_in.with_provenance(Provenance(source="default")), int) is sentinel


def test_an_annotation_that_cannot_be_hashed_works_too():
    assert convert(entry(5), Annotated[int, Field(json_schema_extra={"a": []})]) == 5


def test_what_pydantic_cannot_validate_is_the_callers_mistake():
    class Opaque:
        pass

    with pytest.raises(InvalidRequestError, match="Opaque"):
        convert(entry(1), Opaque)

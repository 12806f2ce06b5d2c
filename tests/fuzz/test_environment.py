"""Settings as an environment may have them: a client, or an error that names the variable to mend."""

import os
from unittest import mock

import pytest
from hypothesis import example, given, strategies as st

from fuzz.strategies import examples
from llm_config_sdk import ConfigClient, InvalidRequestError

GOOD = {
    "LLM_CONFIG_BASE_URL": "http://config.test",
    "LLM_CONFIG_TOKEN": "t",
    "LLM_CONFIG_ENVIRONMENT": "production",
    "LLM_CONFIG_USER": "ann",
    "LLM_CONFIG_BACKUPS": "http://one.test, http://two.test",
    "LLM_CONFIG_TIMEOUT": "10",
}
# What an environment can hold: no NUL, and bytes that are no UTF-8 as lone surrogates.
_texts = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
    st.binary(max_size=10).map(lambda raw: os.fsdecode(raw.replace(b"\0", b""))),
    st.sampled_from(
        [
            "nan",
            "inf",
            "-inf",
            "-1",
            "0",
            "1e400",
            "1e300",
            "1e-320",
            "9" * 5000,
            "[]",
            '["http://a.test"]',
            "null",
            "http://",
            "http://user:hunter2@host",
            "http://host:99999",
            "http://[::1",
            "ftp://host",
            "http://h?x",
            "http://h/\r\nX: y",
            "a\r\nX: y",
            "\u0661\u0662",
            ",,,",
            "prod",
            "PROD\n",
        ]
    ),
)


@examples(400)
@given(st.sampled_from(sorted(GOOD)), _texts)
@example("LLM_CONFIG_TIMEOUT", "inf")
@example("LLM_CONFIG_USER", "a\r\nX: y")
@example("LLM_CONFIG_BACKUPS", "http://user:hunter2@host")
def test_one_variable_may_be_anything(variable, value):
    with mock.patch.dict(os.environ, {**GOOD, variable: value}):
        try:
            ConfigClient().close()
        except InvalidRequestError as error:
            told = str(error)
        else:
            return
    assert variable in told
    assert len(told.splitlines()) == 1
    assert not [other for other in GOOD if other != variable and other in told]


@pytest.mark.parametrize("variable", ["LLM_CONFIG_BASE_URL", "LLM_CONFIG_TOKEN", "LLM_CONFIG_BACKUPS"])
@examples(40)
@given(value=_texts.filter(lambda text: len(text.strip()) > 3))
def test_what_may_hold_a_password_is_not_told_back(variable, value):
    secret = f"s3cr3t{value}"
    with mock.patch.dict(os.environ, {**GOOD, variable: secret}):
        try:
            ConfigClient().close()
        except InvalidRequestError as error:
            told = str(error)
        else:
            return
    assert "s3cr3t" not in told

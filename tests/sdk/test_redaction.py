"""What a server says back of a request is not repeated."""

import pytest

from llm_config_mock_server import respond
from llm_config_sdk import InvalidRequestError, LLMConfigError, ResiliencePolicy, ResponseDecodeError
from llm_config_sdk.decoding import Reply
from llm_config_sdk.redaction import REDACTED, secrets_in, without_secrets


@pytest.mark.parametrize(
    ("headers", "body", "found"),
    [
        ({"Authorization": "Bearer abc123"}, None, {"Bearer abc123", "abc123"}),
        ({"X-Api-Key": "abc123", "Idempotency-Key": "order-7"}, None, {"abc123", "order-7"}),
        ({"Cookie": "session=abc123"}, None, {"session=abc123"}),
        ({"Accept": "application/json", "User-Agent": "llm-config-sdk/1"}, None, set()),
        ({"Authorization": "Bearer abc"}, None, {"Bearer abc"}),
        ({}, b'{"value":"hunter2","env":"base","secret":true}', {"hunter2"}),
        ({}, b'{"value":"hunter2","env":"base"}', set()),
        ({}, b'{"value":"pin","secret":true}', set()),
    ],
)
def test_credentials_keys_and_secrets_are_known_by_their_names_if_they_are_long_enough(headers, body, found):
    assert secrets_in(headers, body) == found


@pytest.mark.parametrize(
    "body",
    [b'say "hi" \\ \xc3\xa9', b'{"a": "say \\"hi\\" \\\\ \xc3\xa9"}', b'{"a": "say \\"hi\\" \\\\ \\u00e9"}'],
)
def test_a_secret_is_found_plain_and_as_json_writes_it(body):
    cleaned = without_secrets(Reply(400, {"x-request-id": "r"}, body), {'say "hi" \\ é'})
    assert "hi" not in cleaned.body.decode()
    assert REDACTED in cleaned.body.decode()


def test_a_reply_without_secrets_is_left_alone():
    reply = Reply(400, {"server": "nginx"}, b"no")
    assert without_secrets(reply, {"abc123"}) is reply


def test_a_message_keeps_all_but_the_token(connect, server):
    server.script(
        "*", respond(400, {"error": {"message": "the token tok-4711 has expired", "request_id": "r"}})
    )
    client = connect(token="tok-4711", resilience=ResiliencePolicy(retry=None))
    with pytest.raises(InvalidRequestError) as caught:
        client.get_config("app", "model")
    assert caught.value.message == f"the token {REDACTED} has expired"


def test_a_value_that_equals_the_token_is_handed_out_as_it_is(connect, server):
    token = server.token("admin")
    server.put("app", "model", token, env="production")
    assert connect(token=token).get_config("app", "model").value == token


def test_a_reply_that_only_a_token_makes_unreadable_is_no_value(connect, server):
    server.script("*", respond(200, b'{"a": "tok\\qen-4711"}', content_type="application/json"))
    with pytest.raises(ResponseDecodeError) as caught:
        connect(token="tok\\qen-4711").request("GET", "/x")
    assert isinstance(caught.value, LLMConfigError)
    assert "4711" not in str(caught.value)

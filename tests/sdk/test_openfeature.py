"""Entries as OpenFeature flags, through the SDK that applications use."""

import asyncio
from contextlib import ExitStack

import pytest
from openfeature import api
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason
from openfeature.provider import ProviderStatus

from llm_config_mock_server import error
from llm_config_sdk import AsyncConfigClient, CachePolicy, ConfigClient
from llm_config_sdk.openfeature import LLMConfigProvider

NAMESPACE = "app/flags"
KINDS = {
    "boolean": (True, False),
    "string": ("on", "off"),
    "integer": (7, 0),
    "float": (0.5, 0.0),
    "object": ({"rollout": [1, 2]}, {}),
}


@pytest.fixture(params=["sync", "async", "async over sync"])
def evaluate(request, server, clock):
    """Evaluates a flag with all details, by the API in hand."""
    options = {"token": server.token("viewer"), "environment": "production", "clock": clock}
    options["cache"] = CachePolicy(ttl=10)
    with asyncio.Runner() as runner, ExitStack() as stack:

        def ready(**more):
            client = stack.enter_context(ConfigClient(server.url, **{**options, **more}))
            others = {}
            if request.param == "async":
                others["async_client"] = AsyncConfigClient(server.url, **{**options, **more})
                stack.callback(lambda: runner.run(others["async_client"].aclose()))
            api.set_provider(LLMConfigProvider(client, NAMESPACE, **others))
            stack.callback(api.clear_providers)
            flags = api.get_client()
            assert flags.get_provider_status() is ProviderStatus.READY

            def evaluating(kind, key, default):
                if request.param == "sync":
                    return getattr(flags, f"get_{kind}_details")(key, default)
                return runner.run(getattr(flags, f"get_{kind}_details_async")(key, default))

            return evaluating

        yield ready


@pytest.mark.parametrize("kind", KINDS)
def test_a_flag_has_its_value_and_where_it_is_from(evaluate, server, kind):
    value, default = KINDS[kind]
    server.put(NAMESPACE, "flag", value, env="production")
    found = evaluate()(kind, "flag", default)
    assert (found.value, found.reason, found.error_code) == (value, Reason.STATIC, None)
    assert found.flag_metadata == {"version": 1, "environment": "production"}


def test_the_reason_says_how_good_a_value_is(evaluate, server, clock):
    server.put(NAMESPACE, "flag", True, env="production")
    ask = evaluate()
    assert ask("boolean", "flag", False).reason == Reason.STATIC
    clock.advance(5)
    assert ask("boolean", "flag", False).reason == Reason.CACHED
    clock.advance(6)
    server.stop()
    stale = ask("boolean", "flag", False)
    assert (stale.value, stale.reason, stale.error_code) == (True, Reason.STALE, None)


def test_a_fallback_of_the_client_is_a_default(evaluate, server):
    server.stop()
    found = evaluate(fallback={(NAMESPACE, "flag"): True})("boolean", "flag", False)
    assert (found.value, found.reason) == (True, Reason.DEFAULT)


def test_what_is_not_there_has_the_calls_default(evaluate):
    found = evaluate()("string", "flag", "off")
    assert (found.value, found.reason, found.error_code) == ("off", Reason.ERROR, ErrorCode.FLAG_NOT_FOUND)


def test_a_value_of_another_type_is_told(evaluate, server):
    server.put(NAMESPACE, "flag", "true", env="production")
    found = evaluate()("boolean", "flag", False)
    assert (found.value, found.error_code) == (False, ErrorCode.TYPE_MISMATCH)
    assert "true" not in found.error_message, "values are not shown"


def test_an_outage_without_anything_known_is_told(evaluate, server):
    server.stop()
    found = evaluate()("boolean", "flag", True)
    assert (found.value, found.error_code) == (True, ErrorCode.PROVIDER_NOT_READY)


def test_a_denial_is_told(evaluate, server):
    server.script("GET *", error("PERMISSION_DENIED"), repeat="last")
    found = evaluate()("boolean", "flag", True)
    assert (found.value, found.error_code) == (True, ErrorCode.GENERAL)

"""From the server's envelope to the client's error: the same facts, whatever the code, pickled too."""

import pickle

import httpx
import pytest
from hypothesis import given, strategies as st

from client_faces import SteppingClock
from fuzz.strategies import errors_named, examples, io_kinds
from llm_config_mock_server import MockServer, error as failing
from llm_config_sdk import ConfigClient, LLMConfigError, errors
from llm_config_sdk.contract import CODES, ErrorCategory
from llm_config_sdk.decoding import MESSAGE_LIMIT
from llm_config_sdk.errors import CODE_CLASSES, one_line

MODULES = {
    "config": errors.ConfigError,
    "rbac": errors.RbacError,
    "crypto": errors.CryptoError,
    "audit": errors.AuditError,
    "cache": errors.CacheError,
}
CATEGORIES = {
    ErrorCategory.CLIENT: errors.ClientError,
    ErrorCategory.SERVER: errors.ServerError,
    ErrorCategory.VALIDATION: errors.ValidationFailure,
    ErrorCategory.SYSTEM: errors.SystemFailure,
}


@pytest.fixture(scope="module")
def server():
    server = MockServer(seed=1, limits=False)
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(server):
    with (
        httpx.Client(transport=server.transport()) as http_client,
        ConfigClient(
            "http://config.test",
            http_client=http_client,
            token=server.token("admin"),
            clock=SteppingClock(),
            resilience=None,
            cache=None,
        ) as client,
    ):
        yield client


_details = st.dictionaries(
    st.text(max_size=10).filter(lambda name: name not in {"module", "variant", "kind", "retry_after"}),
    st.text(max_size=10) | st.integers() | st.booleans() | st.none(),
    max_size=3,
)
_facts = st.fixed_dictionaries(
    {
        "named": errors_named,
        "message": st.text(min_size=1, max_size=60),
        "details": _details,
        "retriable": st.none() | st.booleans(),
        "retry_after": st.none() | st.integers(0, 10**5),
        "kind": io_kinds,
    }
)


@examples(300)
@given(_facts)
def test_what_the_server_says_is_what_the_error_says(server, client, facts):
    code, variant = facts["named"]
    server.reset()
    step = failing(
        code,
        module=variant and variant.module.value,
        variant=variant and variant.variant,
        message=facts["message"],
        details=facts["details"],
        retriable=facts["retriable"],
        retry_after=facts["retry_after"],
        kind=facts["kind"],
    )
    server.script("GET *", [step])
    with pytest.raises(LLMConfigError) as caught:
        client.get_config("app", "model")
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(error, CODE_CLASSES[code])
        assert (error.code, error.status) == (code, CODES[code].status)
        assert error.message == (one_line(facts["message"], MESSAGE_LIMIT) or error.message)
        assert facts["details"].items() <= error.details.items()
        assert isinstance(error, CATEGORIES[error.category])
        assert error.retry_after == facts["retry_after"]
        assert error.server_retriable in {facts["retriable"], error.retriable}
        assert error.request_id == server.journal[-1].request_id
        assert error.timestamp is not None
        if variant is not None:
            assert (error.module, error.variant) == (variant.module, variant.variant)
            assert isinstance(error, MODULES[variant.module])
            assert error.is_critical == variant.critical
        if facts["kind"] is not None and code is not None and CODES[code].status >= 500:
            assert error.category is ErrorCategory.SYSTEM
            assert facts["kind"] == error.kind

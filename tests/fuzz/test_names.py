"""Names on their way: what a caller names is what the server is asked for, and nothing else, ever."""

from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import example, given, strategies as st

from client_faces import SteppingClock
from fuzz.strategies import bad_names, environments, examples, keys, namespaces
from llm_config_mock_server import MockServer
from llm_config_sdk import (
    ConfigClient,
    InvalidKeyError,
    InvalidNamespaceError,
    InvalidRequestError,
    LLMConfigError,
    NotFoundError,
    operations,
)
from llm_config_sdk.contract import key_problem, namespace_problem

PROFILES = ["guide", "upstream-0.5"]


@pytest.fixture(scope="module", params=PROFILES)
def server(request):
    server = MockServer(request.param, seed=1, limits=False)
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(server):
    """A client in the server's process, which asks once: what is seen in the journal is one call."""
    with (
        httpx.Client(transport=server.transport()) as http_client,
        ConfigClient(
            "http://config.test",
            http_client=http_client,
            token=server.token("admin"),
            headers={"X-Forwarded-Proto": "https"},  # the 0.5 server wants it
            environment="production",
            clock=SteppingClock(),
            resilience=None,
            cache=None,
        ) as client,
    ):
        yield client


@examples(100)
@given(namespaces, keys, environments)
@example("a//b", "..", operations.Environment.BASE)
@example("/", "history", operations.Environment.EDGE)
def test_an_entry_comes_back_under_the_names_it_was_written_by(server, client, namespace, key, env):
    server.reset()
    written = client.set_config(namespace, key, 1, env=env)
    assert (written.namespace, written.key, written.environment) == (namespace, key, env)
    assert server.entry(namespace, key, env=env)["value"] == 1

    assert client.get_config(namespace, key, env=env).value == 1
    assert [entry.key for entry in client.list_configs(namespace, env=env)] == [key]
    assert client.get_history(namespace, key, env=env)[0].value == 1
    client.delete_config(namespace, key, env=env)
    assert server.entry(namespace, key, env=env) is None

    with_a_key = [seen for seen in server.journal if seen.key is not None]
    assert len(server.journal) == 5
    assert {(seen.namespace, seen.key) for seen in with_a_key} == {(namespace, key)}
    assert {seen.namespace for seen in server.journal} == {namespace}


@examples(150)
@given(namespaces, keys, environments, st.integers(1, 10**6))
def test_a_target_has_its_operations_segments_and_at_most_one_parameter(namespace, key, env, version):
    for operation in (operations.GET_CONFIG, operations.GET_HISTORY, operations.ROLLBACK):
        given_version = version if operation is operations.ROLLBACK else None
        target = operations.prepare(operation, namespace, key, env, version=given_version).target
        parts = urlsplit(target)
        assert parts.path.count("/") == operation.path.count("/")
        assert parts.query == f"env={env.value}"
        assert not parts.fragment
        assert target.count("?") == 1
        assert "&" not in target
        assert ".." not in target
        assert "--" not in target


@examples(150)
@given(bad_names | namespaces, bad_names | keys, environments)
@example("a", "a/b", operations.Environment.BASE)
def test_names_that_break_the_rules_are_refused_and_never_sent(server, client, namespace, key, env):
    server.reset()
    try:
        client.get_config(namespace, key, env=env)
    except NotFoundError:
        assert namespace_problem(namespace) is None
        assert key_problem(key) is None
        assert [(seen.namespace, seen.key) for seen in server.journal] == [(namespace, key)]
    except InvalidNamespaceError:
        assert namespace_problem(namespace) is not None
        assert not server.journal
    except InvalidKeyError:
        assert key_problem(key) is not None
        assert not server.journal


_paths = st.text(max_size=30).map(lambda rest: f"/{rest}") | st.sampled_from(
    [
        "//evil.test/x",
        "/\\evil.test",
        "/a/../admin",
        "/%2e%2e/admin",
        "/a#b",
        "/a?b=c",
        "http://evil.test/",
        "/a b",
    ]
)
_params = st.dictionaries(st.text(max_size=10), st.text(max_size=10) | st.integers(), max_size=3)


@examples(150)
@given(st.sampled_from(["GET", "POST", "get", "TRACE", "GET /x HTTP/1.1\r\nX: y"]), _paths, _params)
def test_a_path_of_the_callers_own_goes_there_or_nowhere(server, client, method, path, params):
    server.reset()
    try:
        client.request(method, path, params=params)
    except InvalidRequestError as error:
        if error.status is None:
            assert not server.journal
            return
    except LLMConfigError:
        pass
    (seen,) = server.journal
    assert seen.method == method.upper()
    assert seen.request.path == urlsplit(path).path
    assert seen.request.header("host") == "config.test"
    assert seen.request.parameters == httpx_parameters(path, params)


def httpx_parameters(path, params):
    """Read the query as another program does."""
    read = {}
    query = urlsplit(path).query
    for name, value in [*httpx.QueryParams(query).multi_items(), *((n, str(v)) for n, v in params.items())]:
        read.setdefault(name, []).append(value)
    return read

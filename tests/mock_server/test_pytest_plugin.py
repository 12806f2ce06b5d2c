"""The pytest plugin, in test runs of their own."""

import subprocess
import sys

import pytest

pytest_plugins = ("pytester",)

MODULE = "llm_config_mock_server.pytest_plugin"
QUIET = ("-p", "no:cacheprovider", "-W", "error")
ASYNCIO = (
    "-p",
    "asyncio",
    "-o",
    "asyncio_mode=auto",
    "-o",
    "asyncio_default_fixture_loop_scope=function",
)


@pytest.fixture
def run(pytester, monkeypatch):
    """Runs tests with this plugin, and of the installed ones only those that are named."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run_tests(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("-p", MODULE, *QUIET, *arguments)

    return run_tests


def test_a_server_a_test_and_a_client_at_it(run):
    run(
        """
        def test_it(mock_config_server, config_client):
            mock_config_server.put("app/llm", "model", "gpt-4")
            assert config_client.get_str("app/llm", "model") == "gpt-4"
            assert config_client.set_config("app/llm", "model", "gpt-5").version == 2

        def test_another(mock_config_server, config_client):
            assert config_client.get_str("app/llm", "model", default="none") == "none"

        def test_without_the_server(config_client):
            assert config_client.health_check().is_healthy
        """
    ).assert_outcomes(passed=3)


def test_an_async_client_is_closed_in_the_tests_own_loop(run):
    run(
        """
        import pytest

        async def test_on_asyncio(mock_config_server, async_config_client):
            mock_config_server.put("app/llm", "model", "gpt-4")
            assert await async_config_client.get_str("app/llm", "model") == "gpt-4"
        """,
        *ASYNCIO,
    ).assert_outcomes(passed=1)


def test_an_async_client_runs_under_anyio_on_trio_too(run):
    run(
        """
        import pytest

        pytestmark = pytest.mark.anyio

        async def test_on_both(mock_config_server, async_config_client):
            mock_config_server.put("app/llm", "model", "gpt-4")
            assert await async_config_client.get_str("app/llm", "model") == "gpt-4"
        """,
        "-p",
        "anyio",
    ).assert_outcomes(passed=2)


def test_the_marker_says_what_the_server_is_like(run):
    run(
        """
        import pytest

        pytestmark = pytest.mark.mock_config_server(seed=7)

        @pytest.mark.mock_config_server(tls=True, auth=False)
        def test_it(mock_config_server, config_client):
            assert mock_config_server.seed == 7
            assert mock_config_server.url.startswith("https://")
            assert config_client.health_check().is_healthy

        def test_of_the_module(mock_config_server_module):
            assert mock_config_server_module.seed == 7
        """,
        "--strict-markers",
    ).assert_outcomes(passed=2)


def test_both_profiles_answer_the_client(run):
    run(
        """
        import pytest

        @pytest.mark.mock_config_server(profile="upstream-0.5", limits=False)
        def test_it(mock_config_server, config_client):
            config_client.set_config("app/llm", "model", "gpt-4")
            assert config_client.get_str("app/llm", "model") == "gpt-4"
        """
    ).assert_outcomes(passed=1)


@pytest.mark.parametrize("scope", ["module", "session"])
def test_a_shared_server_is_the_same_and_emptied_before_each_test(run, scope):
    run(
        """
        import pytest

        seen = []

        @pytest.mark.parametrize("number", range(3))
        def test_it(mock_config_server_SCOPE, config_client, number):
            server = mock_config_server_SCOPE
            seen.append(server)
            assert server.is_running
            assert server.entry("app/llm", "model") is None
            assert (len(server.journal), len(server.faults)) == (0, 0)
            assert config_client.set_config("app/llm", "model", number).version == 1
            server.chaos(1.0)
            server.stop()

        def test_there_was_one():
            assert len(seen) == 3
            assert all(server is seen[0] for server in seen)
        """.replace("SCOPE", scope)
    ).assert_outcomes(passed=4)


def test_a_marker_that_makes_no_sense_is_refused(run):
    outcome = run(
        """
        import pytest

        @pytest.mark.mock_config_server("guide")
        def test_positional(mock_config_server):
            pass

        @pytest.mark.mock_config_server(seed=1)
        def test_shared(mock_config_server_session):
            pass
        """
    )
    outcome.assert_outcomes(errors=2)
    outcome.stdout.fnmatch_lines(["*takes keyword arguments alone*", "*ask for mock_config_server*"])


def test_a_failed_test_shows_what_the_server_saw(run):
    outcome = run(
        """
        def test_it(mock_config_server, config_client):
            config_client.get_str("app/llm", "model", default=None)
            assert False
        """
    )
    outcome.assert_outcomes(failed=1)
    outcome.stdout.fnmatch_lines(["*Journal of <MockServer guide*", "*GET*app%2Fllm/model*404 NOT_FOUND*"])


def test_it_runs_in_parallel(run):
    outcome = run(
        """
        import pytest

        @pytest.mark.parametrize("number", range(8))
        def test_it(mock_config_server_session, config_client, number):
            assert config_client.set_config("app/llm", "model", number).version == 1
        """,
        "-p",
        "xdist",
        "-n",
        "2",
    )
    outcome.assert_outcomes(passed=8)


def test_importing_the_plugin_imports_neither_server_nor_client():
    program = (
        f"import sys; import {MODULE}; "
        "heavy = {'httpx', 'pydantic', 'anyio', 'h11', 'asyncio', 'llm_config_mock_server.server'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

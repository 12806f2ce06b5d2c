"""Every command against a real server: what it prints, and how it ends."""

import json
import re

import pytest

from llm_config_mock_server import error
from llm_config_sdk import LLMConfigError
from llm_config_sdk.cli.output import shell_hint
from llm_config_sdk.hints import CLASS_HINTS, CODE_HINTS

TOKEN_FREE = "the token must not be in the output"


def test_get_prints_a_string_as_it_is(program, at_server):
    ended = program("get", "app/llm", "model")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "gpt-4o\n", "")


def test_get_prints_anything_else_as_json(invoke, at_server):
    assert json.loads(invoke("get", "app/llm", "limits").stdout) == {"tokens": 512}


def test_get_as_json_tells_where_the_value_came_from(invoke, at_server):
    found = json.loads(invoke("get", "app/llm", "model", "--json").stdout)
    assert (found["value"], found["version"], found["environment"]) == ("gpt-4o", 1, "production")
    assert (found["source"], found["endpoint"]) == ("server", at_server.url)


def test_get_resolves_overrides_when_asked_to(invoke, at_server):
    assert invoke("get", "app/llm", "temperature").exit_code == 4
    assert invoke("get", "app/llm", "temperature", "--resolve").stdout == "0.7\n"


def test_options_win_over_the_environment(invoke, at_server, monkeypatch):
    monkeypatch.setenv("LLM_CONFIG_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("LLM_CONFIG_TOKEN", "wrong")
    monkeypatch.setenv("LLM_CONFIG_ENVIRONMENT", "edge")
    options = ("--base-url", at_server.url, "--token", at_server.token("viewer"), "--env", "prod")
    assert invoke("get", "app/llm", "model", *options).stdout == "gpt-4o\n"


@pytest.mark.parametrize(
    ("words", "stored"),
    [
        (("5",), 5),
        (("true",), True),
        (('{"a": [1, null]}',), {"a": [1, None]}),
        (("gpt-5",), "gpt-5"),
        (("5", "--string"), "5"),
    ],
)
def test_set_takes_json_or_else_a_string(program, at_server, words, stored):
    ended = program("set", "app/llm", "new", *words)
    assert (ended.returncode, ended.stdout) == (0, "app/llm new [production] is at version 1\n")
    assert at_server.entry("app/llm", "new", env="production")["value"] == stored


def test_set_says_so_where_a_value_looks_like_json_and_is_none(invoke, at_server):
    ended = invoke("set", "app/llm", "new", '{"a": 1')
    assert ended.exit_code == 0
    assert "does not read as JSON, and is stored as a string" in ended.stderr
    for words in (('{"a": 1', "--string"), ('{"a": 1', "--secret"), ('{"a": 1}',), ("plain",)):
        assert invoke("set", "app/llm", "new", *words).stderr == ""


def test_set_reads_standard_input(invoke, at_server):
    assert invoke("set", "app/llm", "prompt", "-", input="You are helpful.\n").exit_code == 0
    assert at_server.entry("app/llm", "prompt", env="production")["value"] == "You are helpful."


def test_set_refuses_a_version_that_is_not_the_newest(invoke, at_server):
    ended = invoke("set", "app/llm", "model", "gpt-5", "--expected-version", "7", "--json")
    assert ended.exit_code == 1
    assert json.loads(ended.stderr)["error"]["type"] == "ConflictError"


def test_list_as_a_table_and_as_json(program, at_server):
    table = program("list", "app/llm")
    assert table.returncode == 0
    assert "gpt-4o" in table.stdout
    assert '{"tokens": 512}' in table.stdout
    documents = json.loads(program("list", "app/llm", "--json").stdout)
    assert [document["key"] for document in documents] == ["limits", "model"]


def test_list_of_nothing_says_so_beside_the_output(invoke, at_server):
    ended = invoke("list", "nobody/here")
    note = "No entries in nobody/here [production]; --env names another environment.\n"
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "", note)
    assert json.loads(invoke("list", "nobody/here", "--json").stdout) == []


def test_history_rollback_and_delete(program, at_server):
    assert program("set", "app/llm", "model", "gpt-5").returncode == 0
    back = program("rollback", "app/llm", "model", "1")
    assert back.stdout == "app/llm model [production] is at version 3, with the value of version 1\n"
    versions = json.loads(program("history", "app/llm", "model", "--json").stdout)
    assert [(item["version"], item["value"]) for item in versions][:2] == [(3, "gpt-4o"), (2, "gpt-5")]
    assert "gpt-5" in program("history", "app/llm", "model").stdout
    assert program("delete", "app/llm", "model").returncode == 0
    assert at_server.entry("app/llm", "model", env="production") is None
    assert program("delete", "app/llm", "model").returncode == 4


def test_json_of_rollback_set_and_delete(invoke, at_server):
    assert json.loads(invoke("set", "app/llm", "model", "gpt-5", "--json").stdout)["version"] == 2
    assert json.loads(invoke("rollback", "app/llm", "model", "1", "--json").stdout)["value"] == "gpt-4o"
    deleted = json.loads(invoke("delete", "app/llm", "model", "--json").stdout)
    assert deleted == {"deleted": True, "namespace": "app/llm", "key": "model"}


def test_history_of_nothing_says_so_beside_the_output(invoke, at_server):
    ended = invoke("history", "app/llm", "never")
    assert (ended.exit_code, ended.stdout) == (0, "")
    assert ended.stderr == "No versions of app/llm never [production]; --env names another environment.\n"


def test_health(program, at_server):
    ended = program("health")
    assert ended.returncode == 0
    assert ended.stdout.split()[-1] == "healthy"
    assert json.loads(program("health", "--json").stdout)["status"] == "healthy"


# --- Secrets --------------------------------------------------------------------------------------

SECRET = "s3cr3t-value"


@pytest.fixture
def with_secret(at_server):
    pytest.importorskip("cryptography")
    at_server.put("app/llm", "api-key", SECRET, env="production", secret=True)
    return at_server


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize(
    "command", [("get", "app/llm", "api-key"), ("list", "app/llm"), ("history", "app/llm", "api-key")]
)
def test_no_secret_is_printed_unless_asked_for(program, with_secret, command, form):
    ended = program(*command, *form)
    assert ended.returncode == 0
    assert SECRET not in ended.stdout + ended.stderr


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize("command", [("get", "app/llm", "api-key"), ("list", "app/llm")])
def test_reveal_prints_it(program, with_secret, command, form):
    assert SECRET in program(*command, *form, "--reveal").stdout


def test_a_secret_that_is_set_is_not_echoed(invoke, with_secret):
    ended = invoke("set", "app/llm", "other", "-", "--secret", "--json", input=SECRET)
    assert ended.exit_code == 0
    assert SECRET not in ended.output
    assert json.loads(ended.stdout)["secret"] is True
    assert invoke("get", "app/llm", "other", "--reveal").stdout == f"{SECRET}\n"


# --- Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "role", "told_by"),
    [
        (("get", "app/llm", "modle"), "admin", (4, "NotFoundError")),
        (("rollback", "app/llm", "model", "99"), "admin", (4, "VersionNotFoundError")),
        (("set", "app/llm", "model", "x"), "viewer", (5, "PermissionDeniedError")),
        (("get", "app/llm", "model", "--token", "wrong"), "admin", (5, "UnauthorizedError")),
        (("get", "app/llm", "max tokens"), "admin", (6, "InvalidKeyError")),
        (("get", "app llm", "model"), "admin", (6, "InvalidNamespaceError")),
        (("get", "app/llm", "model", "--env", "moon"), "admin", (6, None)),
        (("get", "app/llm", "model", "--timeout", "-1"), "admin", (6, "InvalidRequestError")),
    ],
)
def test_exit_codes_tell_errors_apart(invoke, at_server, words, role, told_by):
    code, kind = told_by
    ended = invoke(*words, "--json", env={"LLM_CONFIG_TOKEN": at_server.token(role)})
    assert ended.exit_code == code
    assert ended.stdout == ""
    told = json.loads(ended.stderr)["error"]
    assert told["exit_code"] == code
    assert told["hint"]
    assert kind in {None, told["type"]}
    assert at_server.token(role) not in ended.output, TOKEN_FREE


@pytest.mark.parametrize("code", ["SERVICE_UNAVAILABLE", "RATE_LIMIT_EXCEEDED", "DATABASE_ERROR"])
def test_a_server_that_cannot_answer_now_is_unavailable(invoke, at_server, code):
    # More than any cap, so that nothing waits for it.
    at_server.script("GET /api/*", error(code, retry_after=3600), repeat="last")
    ended = invoke("get", "app/llm", "model", "--json")
    assert ended.exit_code == 7
    assert json.loads(ended.stderr)["error"]["code"] == code


def test_a_server_that_is_gone_is_unavailable(program, at_server):
    at_server.stop()
    ended = program("get", "app/llm", "model")
    assert ended.returncode == 7
    assert ended.stdout == ""
    first, second = ended.stderr.splitlines()
    assert first.startswith("error: ")
    assert second.startswith(" hint: ")


def test_a_secret_that_cannot_be_read_is_another_failure(invoke, at_server):
    at_server.script("GET /api/*", error("DECRYPTION_ERROR"))
    assert invoke("get", "app/llm", "model").exit_code == 1


def test_a_path_that_the_server_does_not_know_is_not_a_missing_entry(invoke, at_server):
    ended = invoke("get", "app/llm", "model", "--base-url", f"{at_server.url}/elsewhere", "--json")
    assert ended.exit_code == 1
    assert json.loads(ended.stderr)["error"]["type"] == "NotFoundError"


def test_an_error_says_what_happened_and_what_to_do(program, at_server):
    ended = program("get", "app/llm", "modle")
    first, second = ended.stderr.splitlines()
    where = f"environment production, at {at_server.url}, NOT_FOUND, HTTP 404, request req_"
    assert first.startswith(f"error: Configuration not found: app/llm:modle ({where}")
    assert second == " hint: Check namespace, key and environment; `list` shows what there is."


@pytest.mark.parametrize("name", [*CODE_HINTS.values(), *CLASS_HINTS.values()])
def test_a_hint_names_what_a_shell_can_pass(name):
    error = LLMConfigError("x", hint=name)
    assert not re.search(r"\w=…|`retry_after`|`details`|\(…\)", shell_hint(error)), name


def test_without_a_server_the_hint_names_the_option(invoke):
    ended = invoke("get", "app/llm", "model")
    assert ended.exit_code == 6
    assert "Pass --base-url, or set LLM_CONFIG_BASE_URL." in ended.stderr


def test_a_setting_that_is_wrong_is_told_by_its_name(invoke, at_server, monkeypatch):
    monkeypatch.setenv("LLM_CONFIG_TIMEOUT", "soon")
    ended = invoke("get", "app/llm", "model")
    assert ended.exit_code == 6
    assert "LLM_CONFIG_TIMEOUT" in ended.stderr


def test_a_wrong_command_line_is_told_from_errors(invoke):
    assert invoke("get").exit_code == 2
    assert invoke("no-such-command").exit_code == 2


# --- explain --------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["NOT_FOUND", "not_found", "NotFoundError"])
def test_explain_finds_a_code_by_any_of_its_names(invoke, word):
    ended = invoke("explain", word)
    assert ended.exit_code == 0
    assert ended.stdout.startswith("NOT_FOUND: Resource not found\n")
    assert "NotFoundError" in ended.stdout
    assert "default=" in ended.stdout


def test_explain_finds_codes_by_variant_and_status(invoke):
    assert json.loads(invoke("explain", "config.IoError", "--json").stdout)["code"] == "STORAGE_ERROR"
    codes = {each["code"] for each in json.loads(invoke("explain", "503", "--json").stdout)}
    assert codes == {"SERVICE_UNAVAILABLE", "DATABASE_ERROR"}


def test_explain_names_the_variants_that_never_pass(invoke):
    found = json.loads(invoke("explain", "INTERNAL_ERROR", "--json").stdout)
    assert found["permanent_variants"] == ["config.SerializationError", "cache.SerializationError"]
    assert "never passes" in invoke("explain", "INTERNAL_ERROR").stdout
    assert "never passes" not in invoke("explain", "NOT_FOUND").stdout


def test_explain_alone_lists_all_codes(invoke):
    assert len(json.loads(invoke("explain", "--json").stdout)) == 17
    assert "DECRYPTION_ERROR" in invoke("explain").stdout


def test_explain_of_a_word_it_does_not_know(program):
    ended = program("explain", "NO_SUCH_CODE")
    assert (ended.returncode, ended.stdout) == (4, "")
    assert "NO_SUCH_CODE" in ended.stderr


def test_what_is_listed_and_deleted_is_told_with_its_environment(invoke, at_server):
    assert "app/llm [production]" in invoke("list", "app/llm").stdout
    assert "app/llm model [production]" in invoke("history", "app/llm", "model").stdout
    assert invoke("delete", "app/llm", "model").stdout.startswith("app/llm model [production] is deleted")
    assert invoke("list", "app/llm", "-e", "edge").stderr.startswith("No entries in app/llm [edge]")


def test_a_wrong_setting_is_told_by_the_option_or_the_variable_it_came_from(invoke, at_server, monkeypatch):
    told = invoke("get", "app/llm", "model", "--timeout", "0").stderr
    assert "--timeout: Input should be greater than 0" in told
    told = invoke("get", "app/llm", "model", "--base-url", "127.0.0.1:80", "--json").stderr
    assert "--base-url: the base URL must begin with" in json.loads(told)["error"]["message"]
    monkeypatch.setenv("LLM_CONFIG_ENVIRONMENT", "produktion")
    assert "LLM_CONFIG_ENVIRONMENT: unknown environment" in invoke("get", "app/llm", "model").stderr


@pytest.mark.parametrize("words", [("get", "app/llm", "model"), ("doctor",)])
def test_a_misspelt_variable_is_named_beside_the_output(invoke, at_server, monkeypatch, words):
    monkeypatch.delenv("LLM_CONFIG_ENVIRONMENT")
    monkeypatch.setenv("LLM_CONFIG_ENV", "production")
    told = "note: LLM_CONFIG_ENV is not read; did you mean LLM_CONFIG_ENVIRONMENT?"
    assert told in invoke(*words).stderr
    assert told not in invoke(*words, "--json").stderr


def test_no_flag_is_shown_with_a_type_as_if_a_value_followed(invoke):
    for words in ((), ("get",), ("simulate",), ("watch",)):
        shown = invoke(*words, "--help").stdout
        assert "--help" in shown
        assert "bool" not in shown


@pytest.mark.parametrize("name", CLASS_HINTS)
def test_explain_knows_what_is_born_on_this_side_of_the_wire(invoke, name):
    found = json.loads(invoke("explain", name.lower(), "--json").stdout)
    assert (found["code"], found["status"], found["error_class"]) == (None, None, name)
    assert found["hint"] == CLASS_HINTS[name]
    assert found["exit_code"] == (1 if name == "ResponseDecodeError" else 7)
    shown = invoke("explain", name).stdout
    assert shown.startswith(f"{name}: ")
    assert "status       none" in shown


def test_explain_guesses_what_was_meant(invoke):
    assert "did you mean NOT_FOUND?" in invoke("explain", "not_fund").stderr
    assert "`explain` alone lists" in invoke("explain", "zzz").stderr

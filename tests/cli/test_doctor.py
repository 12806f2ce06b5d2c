"""`doctor`: each thing that can be wrong is found, and the fix named."""

import json
import re
import time
from dataclasses import replace

import pytest

from llm_config_mock_server import MockServer, error, html, respond
from llm_config_mock_server.messages import At

ABSENT = "GET /api/*"
HEALTHY = {"status": "healthy", "service": "llm-config-manager", "version": "0.5.0"}


@pytest.fixture
def diagnose(invoke):
    """Runs `doctor --json`: the exit code, and the first endpoint's findings by check."""

    def run(*words):
        ended = invoke("doctor", "--json", *words)
        document = json.loads(ended.stdout)
        assert document["exit_code"] == ended.exit_code
        assert document["ok"] is (ended.exit_code == 0)
        findings = document["endpoints"][0]["findings"]
        for finding in findings:
            assert finding["standing"] in {"ok", "note", "problem"}
            assert finding["fix"] or finding["standing"] != "problem"
        return ended.exit_code, {finding["check"]: finding for finding in findings}, document

    return run


def _problems(findings):
    return {name for name, finding in findings.items() if finding["standing"] == "problem"}


def test_all_is_well(diagnose, at_server):
    code, findings, document = diagnose()
    assert (code, _problems(findings)) == (0, set())
    assert set(findings) == {
        "reachable",
        "tls",
        "clock",
        "forwarded",
        "profile",
        "token",
        "encoding",
        "rate limit",
    }
    assert document["endpoints"][0]["profile"] == "guide"
    assert "accepted" in findings["token"]["says"]
    assert [entry.status for entry in at_server.journal] == [200, 404, 401]


def test_for_people_it_is_one_line_a_finding(program, at_server):
    ended = program("doctor")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[0] == f"primary {at_server.url}"
    assert re.search(r"^  ok +encoding +A namespace with a slash arrives", ended.stdout, re.MULTILINE)


def test_a_problem_is_followed_by_its_fix(program, at_server):
    ended = program("doctor", "--token", "wrong-t0ken")
    assert ended.returncode == 5
    lines = ended.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  problem token"))
    assert re.fullmatch(r" +fix: +Pass another token, with --token or LLM_CONFIG_TOKEN\.", lines[at + 1])
    assert "wrong-t0ken" not in ended.stdout + ended.stderr


def test_a_server_that_is_gone(diagnose, at_server):
    at_server.stop()
    code, findings, _ = diagnose()
    assert (code, set(findings)) == (7, {"reachable"})
    assert "refused" in findings["reachable"]["says"]


def test_a_server_that_goes_in_between(diagnose, at_server):
    at_server.script(ABSENT, error("SERVICE_UNAVAILABLE"), repeat="last")
    code, findings, _ = diagnose()
    assert code == 7
    assert "reachable" in _problems(findings)


def test_a_server_that_calls_itself_unwell(diagnose, at_server):
    at_server.script("GET /health", respond(200, {**HEALTHY, "status": "degraded"}))
    code, findings, _ = diagnose()
    assert (code, _problems(findings)) == (7, {"reachable"})
    at_server.script("GET /health", respond(503, {**HEALTHY, "status": "unhealthy"}))
    assert diagnose()[0] == 7


def test_a_wrong_base_url(diagnose, at_server):
    code, findings, _ = diagnose("--base-url", f"{at_server.url}/elsewhere")
    assert (code, _problems(findings)) == (6, {"reachable", "encoding"})
    assert "base URL" in findings["encoding"]["fix"]


def test_a_login_page_in_front(diagnose, at_server):
    at_server.script("GET /*", html(200, reason="OK"), repeat="last")
    code, findings, document = diagnose()
    assert (code, document["endpoints"][0]["profile"]) == (6, None)
    assert _problems(findings) == {"reachable", "encoding"}
    assert findings["profile"]["standing"] == "note"


def test_a_redirect_is_not_followed(diagnose, at_server):
    at_server.script("GET /*", respond(308, headers={"location": "http://127.0.0.1:1/"}), repeat="last")
    code, findings, _ = diagnose()
    assert code == 6
    assert "reachable" in _problems(findings)


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_token_that_is_missing_or_wrong(diagnose, at_server, monkeypatch, token):
    monkeypatch.delenv("LLM_CONFIG_TOKEN")
    code, findings, _ = diagnose(*(("--token", token) if token else ()))
    assert (code, _problems(findings)) == (5, {"token"})
    assert "LLM_CONFIG_TOKEN" in findings["token"]["fix"]
    assert findings["encoding"]["standing"] == "note"


def test_a_token_that_may_not_read_is_told_in_the_servers_words(diagnose, at_server):
    at_server.script(ABSENT, error("PERMISSION_DENIED", message="Access denied: role editor may not read"))
    code, findings, _ = diagnose()
    assert (code, _problems(findings)) == (5, {"token"})
    assert "role editor" in findings["token"]["says"]


def test_a_server_that_asks_for_no_token(diagnose, monkeypatch):
    with MockServer(auth=False) as server:
        monkeypatch.setenv("LLM_CONFIG_BASE_URL", server.url)
        code, findings, _ = diagnose()
        assert (code, findings["token"]["standing"]) == (0, "ok")
        code, findings, _ = diagnose("--token", "any")
        assert (code, findings["token"]["standing"]) == (0, "note")


@pytest.fixture
def published(monkeypatch):
    with MockServer("upstream-0.5", seed=3) as running:
        monkeypatch.setenv("LLM_CONFIG_BASE_URL", running.url)
        yield running


def test_the_published_server_behind_no_proxy(diagnose, published):
    code, findings, document = diagnose()
    assert (code, _problems(findings)) == (6, {"forwarded"})
    assert "X-Forwarded-Proto:https" in findings["forwarded"]["fix"]
    assert document["endpoints"][0]["profile"] == "upstream-0.5"
    assert findings["encoding"]["standing"] == "ok"


def test_the_fix_that_it_names_works(diagnose, invoke, published):
    code, findings, _ = diagnose("--header", "X-Forwarded-Proto:https")
    assert (code, findings["forwarded"]["standing"]) == (0, "ok")
    words = ("--header", "X-Forwarded-Proto: https")
    assert invoke("set", "app/llm", "a", "1", *words).exit_code == 0
    assert invoke("get", "app/llm", "a", *words).stdout == "1\n"


def test_a_proxy_that_decodes_the_slash(diagnose, at_server):
    no_route = error("NOT_FOUND", message="No such route: GET /api", details={"route": "/api"})
    at_server.script("GET /api/v1/configs/*", no_route, times=1)
    code, findings, _ = diagnose()
    assert (code, _problems(findings)) == (6, {"encoding"})
    assert "%2F" in findings["encoding"]["says"]
    assert "proxy" in findings["encoding"]["fix"]


def test_a_proxy_that_answers_with_something_else(diagnose, invoke, at_server):
    entry = json.loads(invoke("get", "app/llm", "model", "--json").stdout)
    wire = {
        name: entry[name]
        for name in ("id", "namespace", "key", "value", "environment", "version", "metadata")
    }
    at_server.script(ABSENT, respond(200, wire))
    code, findings, _ = diagnose()
    assert (code, _problems(findings)) == (6, {"encoding"})
    assert "app/llm:model" in findings["encoding"]["says"]


@pytest.mark.parametrize(("seconds", "way"), [(600, "ahead of"), (-600, "behind")])
def test_a_clock_that_is_wrong(diagnose, monkeypatch, seconds, way):
    def wrong():
        now = At.now()
        return replace(now, wall_ns=now.wall_ns + seconds * 10**9)

    with MockServer(auth=False, clock=wrong) as server:
        monkeypatch.setenv("LLM_CONFIG_BASE_URL", server.url)
        code, findings, _ = diagnose()
    assert (code, _problems(findings)) == (6, {"clock"})
    assert way in findings["clock"]["says"]


def test_rate_limit_headers(diagnose, at_server):
    told = {"x-ratelimit-limit": "100", "x-ratelimit-remaining": "99", "x-ratelimit-reset": "17"}
    missing = {"error": {"code": "NOT_FOUND", "message": "Configuration not found: a:b"}}
    at_server.script(ABSENT, respond(404, missing, headers=told), times=1)
    _, findings, _ = diagnose()
    assert findings["rate limit"]["says"] == "99 of 100 requests left, until 17."


def test_a_rate_limit_that_is_reached(diagnose, at_server):
    at_server.script(ABSENT, error("RATE_LIMIT_EXCEEDED", retry_after=3600), repeat="last")
    began = time.monotonic()
    code, findings, _ = diagnose()
    assert time.monotonic() - began < 60, "nothing waits for it"
    assert (code, _problems(findings)) == (7, {"rate limit"})


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def encrypted(monkeypatch):
    pytest.importorskip("trustme")
    with MockServer(tls=True, auth=False) as running:
        monkeypatch.setenv("LLM_CONFIG_BASE_URL", running.url)
        yield running


def test_a_certificate_that_nobody_vouches_for(diagnose, encrypted):
    code, findings, _ = diagnose()
    assert (code, _problems(findings)) == (6, {"tls"})
    assert "certificate" in findings["tls"]["says"]
    assert "SSL_CERT_FILE" in findings["tls"]["fix"]


@pytest.mark.parametrize("variable", ["LLM_CONFIG_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_certificate_can_be_named(diagnose, encrypted, monkeypatch, tmp_path, variable):
    authority = tmp_path / "authority.pem"
    encrypted.ca.cert_pem.write_to_path(str(authority))
    monkeypatch.setenv(variable, str(authority))
    code, findings, _ = diagnose()
    assert (code, findings["tls"]["says"]) == (0, "The certificate is accepted.")


def test_https_where_there_is_none(diagnose, at_server):
    code, findings, _ = diagnose("--base-url", at_server.url.replace("http:", "https:"))
    assert (code, _problems(findings)) == (6, {"tls"})
    assert "Use http" in findings["tls"]["fix"]


# --- Several, and none ----------------------------------------------------------------------------


def test_backups_are_examined_too(invoke, at_server, monkeypatch):
    monkeypatch.setenv("LLM_CONFIG_BACKUPS", f"{at_server.url}/elsewhere,http://127.0.0.1:1")
    ended = invoke("doctor", "--json")
    assert ended.exit_code == 7
    endpoints = json.loads(ended.stdout)["endpoints"]
    assert [endpoint["role"] for endpoint in endpoints] == ["primary", "backup", "backup"]
    assert invoke("doctor", "--backup", at_server.url).exit_code == 0


def test_no_server_to_examine(invoke):
    ended = invoke("doctor", "--json")
    assert (ended.exit_code, ended.stdout) == (6, "")
    assert "LLM_CONFIG_BASE_URL" in json.loads(ended.stderr)["error"]["hint"]


def test_a_header_that_is_none_is_not_shown(invoke, at_server):
    for command in (("doctor",), ("get", "app/llm", "model")):
        ended = invoke(*command, "--header", "s3cret-without-colon")
        assert ended.exit_code == 6
        assert "NAME:VALUE" in ended.stderr
        assert "s3cret" not in ended.output

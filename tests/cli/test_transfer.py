"""`export` and `import`: a namespace out and in again, piece by piece."""

import json

import pytest

from llm_config_mock_server import error
from llm_config_sdk.cli import transfer

SECRET = "s3cr3t-value"


@pytest.fixture
def with_secret(at_server):
    pytest.importorskip("cryptography")
    at_server.put("app/llm", "api-key", SECRET, env="production", secret=True)
    return at_server


@pytest.fixture
def document(tmp_path):
    """Writes a document to import."""

    def write(content):
        path = tmp_path / "document.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return str(path)

    return write


def _posts(server):
    return server.journal.count(method="POST")


# --- export ---------------------------------------------------------------------------------------


def test_export_writes_one_document(program, at_server):
    ended = program("export", "app/llm")
    assert (ended.returncode, ended.stderr) == (0, "")
    found = json.loads(ended.stdout)
    assert (found["namespace"], found["environment"], found["left_out"]) == ("app/llm", "production", [])
    assert found["entries"] == [
        {"key": "limits", "value": {"tokens": 512}},
        {"key": "model", "value": "gpt-4o"},
    ]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_export_leaves_secrets_out_and_says_so(invoke, with_secret, form):
    ended = invoke("export", "app/llm", *form)
    assert ended.exit_code == 0
    assert SECRET not in ended.output
    assert json.loads(ended.stdout)["left_out"] == ["api-key"]
    assert ended.stderr == "1 secret left out (api-key): --reveal takes them along.\n"


def test_export_with_reveal_has_them(invoke, with_secret):
    found = json.loads(invoke("export", "app/llm", "--reveal").stdout)
    assert {"key": "api-key", "value": SECRET, "secret": True} in found["entries"]
    assert found["left_out"] == []


def test_export_to_a_file_that_only_its_owner_reads(invoke, at_server, tmp_path):
    path = tmp_path / "app.json"
    ended = invoke("export", "app/llm", "--file", str(path))
    assert (ended.exit_code, ended.stdout) == (0, f"{path}: 2 entries of app/llm [production]\n")
    assert len(json.loads(path.read_text("utf-8"))["entries"]) == 2
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    told = json.loads(invoke("export", "app/llm", "--file", str(path), "--json").stdout)
    assert told == {"file": str(path), "entries": 2, "left_out": []}


def test_export_to_where_nothing_can_be_written(invoke, at_server, tmp_path):
    ended = invoke("export", "app/llm", "--file", str(tmp_path / "no" / "such.json"))
    assert (ended.exit_code, ended.stdout) == (6, "")
    assert "cannot write" in ended.stderr


def test_a_secret_that_the_server_keeps_to_itself_is_not_exported_as_its_placeholder(invoke, with_secret):
    entry = json.loads(invoke("get", "app/llm", "model", "--json").stdout)
    wire = {name: entry[name] for name in ("id", "namespace", "environment", "version", "metadata")}
    placeholder = {**wire, "key": "api-key", "value": "<encrypted>"}
    from llm_config_mock_server import respond  # noqa: PLC0415  # one test's need

    with_secret.script("GET /api/*", respond(200, [placeholder]))
    ended = invoke("export", "app/llm", "--reveal")
    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["entries"] == []
    assert "the server does not hand them out" in ended.stderr


# --- import ---------------------------------------------------------------------------------------


def test_what_was_exported_can_be_imported_elsewhere(program, with_secret, tmp_path):
    assert program("export", "app/llm", "--reveal", "--file", "app.json").returncode == 0
    ended = program("import", "app/copy", "app.json")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == "app/copy: 3 created, 0 updated, 0 unchanged\n"
    assert with_secret.entry("app/copy", "limits", env="production")["value"] == {"tokens": 512}
    secret = json.loads(program("get", "app/copy", "api-key", "--json", "--reveal").stdout)
    assert (secret["value"], secret["secret"]) == (SECRET, True)


def test_only_what_differs_is_written(invoke, at_server, document):
    path = document({"model": "gpt-5", "limits": {"tokens": 512}, "new": None})
    ended = invoke("import", "app/llm", path)
    assert (ended.exit_code, ended.stdout) == (0, "app/llm: 1 created, 1 updated, 1 unchanged\n")
    assert _posts(at_server) == 2
    assert invoke("import", "app/llm", path).stdout == "app/llm: 0 created, 0 updated, 3 unchanged\n"
    assert _posts(at_server) == 2
    assert at_server.entry("app/llm", "model", env="production")["version"] == 2


def test_one_and_true_are_different_values(invoke, at_server, document):
    at_server.put("app/llm", "flag", 1, env="production")
    assert "1 updated" in invoke("import", "app/llm", document({"flag": True})).stdout
    assert at_server.entry("app/llm", "flag", env="production")["value"] is True


def test_a_dry_run_shows_what_would_change_and_writes_nothing(invoke, at_server, document):
    path = document({"model": "gpt-5", "limits": {"tokens": 512}, "new": 1})
    ended = invoke("import", "app/llm", path, "--dry-run")
    assert ended.exit_code == 0
    for word in ('"gpt-4o"', '"gpt-5"', "created", "updated"):
        assert word in ended.stdout
    assert ended.stdout.endswith("1 created, 1 updated, 1 unchanged (dry run: nothing is written)\n")
    told = json.loads(invoke("import", "app/llm", path, "--dry-run", "--json").stdout)
    assert told["dry_run"] is True
    assert [(each["key"], each["change"]) for each in told["changes"]] == [
        ("model", "updated"),
        ("limits", "unchanged"),
        ("new", "created"),
    ]
    assert _posts(at_server) == 0


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_import_shows_no_secret(invoke, with_secret, document, form, dry):
    new = "another-s3cret"
    entries = [
        {"key": "api-key", "value": new, "secret": True},
        {"key": "other", "value": new, "secret": True},
    ]
    path = document({"format": transfer.FORMAT, "version": 1, "entries": entries})
    ended = invoke("import", "app/llm", path, *form, *dry)
    assert ended.exit_code == 0
    assert SECRET not in ended.output
    assert new not in ended.output
    revealed = invoke("import", "app/new", path, "--dry-run", "--reveal", *form)
    assert new in revealed.stdout


def test_a_value_that_takes_a_secrets_place_is_hidden_as_well(invoke, with_secret, document):
    ended = invoke("import", "app/llm", document({"api-key": "plain-s3cret"}), "--dry-run")
    assert ended.exit_code == 0
    assert "plain-s3cret" not in ended.output


def test_a_secret_that_is_the_same_is_not_written_again(invoke, with_secret, document):
    entries = [{"key": "api-key", "value": SECRET, "secret": True}]
    path = document({"format": transfer.FORMAT, "version": 1, "entries": entries})
    assert invoke("import", "app/llm", path).stdout == "app/llm: 0 created, 0 updated, 1 unchanged\n"
    assert _posts(with_secret) == 0


def test_failures_are_told_one_by_one_and_stop_nothing(invoke, at_server, document):
    path = document({"bad key": 1, "worse key": 2, "good": 3})
    ended = invoke("import", "app/llm", path)
    assert ended.exit_code == 6
    assert ended.stdout == "app/llm: 1 created, 0 updated, 0 unchanged, 2 failed\n"
    assert ended.stderr.count("error: ") == ended.stderr.count(" hint: ") == 2
    assert "app/llm bad key:\n" in ended.stderr
    assert at_server.entry("app/llm", "good", env="production")["value"] == 3


def test_failures_of_several_kinds(invoke, at_server, document):
    at_server.script("POST /api/*/denied", error("PERMISSION_DENIED"))
    ended = invoke("import", "app/llm", document({"bad key": 1, "denied": 2, "good": 3}), "--json")
    assert ended.exit_code == 1
    changes = {each["key"]: each for each in json.loads(ended.stdout)["changes"]}
    assert changes["bad key"]["error"]["type"] == "InvalidKeyError"
    assert changes["denied"]["error"]["code"] == "PERMISSION_DENIED"
    assert (changes["good"]["change"], changes["good"]["error"]) == ("created", None)


def test_import_reads_standard_input(invoke, at_server):
    ended = invoke("import", "app/llm", "-", "--user", "ann", input='{"from-stdin": true}')
    assert ended.exit_code == 0
    assert at_server.entry("app/llm", "from-stdin", env="production")["value"] is True


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        {"format": transfer.FORMAT, "version": 99, "entries": []},
        {"format": transfer.FORMAT, "version": 1},
        {"format": transfer.FORMAT, "version": 1, "entries": [SECRET]},
        {"format": transfer.FORMAT, "version": 1, "entries": [{"key": "a"}]},
        {
            "format": transfer.FORMAT,
            "version": 1,
            "entries": [{"key": "a", "value": [SECRET], "secret": True}],
        },
        {"format": transfer.FORMAT, "version": 1, "entries": [{"key": "a", "value": 1}] * 2},
    ],
)
def test_what_is_no_document_is_refused_before_anything_is_written(invoke, at_server, document, content):
    ended = invoke("import", "app/llm", document(content))
    assert (ended.exit_code, ended.stdout) == (6, "")
    assert SECRET not in ended.output
    assert _posts(at_server) == 0


def test_a_file_that_is_not_there(invoke, at_server, tmp_path):
    ended = invoke("import", "app/llm", str(tmp_path / "nothing.json"), "--json")
    assert ended.exit_code == 6
    assert "cannot read" in json.loads(ended.stderr)["error"]["message"]


def test_a_bar_is_shown_on_a_terminal_alone(invoke, at_server, document):
    path = document({f"key-{number}": number for number in range(5)})
    assert invoke("import", "app/llm", path).stderr == ""
    path = document({f"key-{number}": -number for number in range(5)})
    ended = invoke("import", "app/llm", path, env={"FORCE_COLOR": "1"})
    assert "importing" in ended.stderr
    assert "importing" not in ended.stdout


def test_ctrl_c_says_what_was_not_tried(invoke, at_server, document, monkeypatch):
    from llm_config_sdk import ConfigClient  # noqa: PLC0415  # what is interrupted

    write, written = ConfigClient.set_config, []

    def interrupted(self, namespace, key, value, **how):
        if written:
            raise KeyboardInterrupt
        written.append(key)
        return write(self, namespace, key, value, **how)

    monkeypatch.setattr(ConfigClient, "set_config", interrupted)
    ended = invoke("import", "app/llm", document({"a": 1, "b": 2, "c": 3}))
    assert ended.exit_code == 130
    assert ended.stdout == "app/llm: 1 created, 0 updated, 0 unchanged, 2 not tried\n"
    assert _posts(at_server) == 1

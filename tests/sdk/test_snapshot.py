"""Last known good, on disk."""

import json
import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, strategies as st
from pydantic import SecretStr

from llm_config_sdk import ConfigEntry, InvalidRequestError
from llm_config_sdk.entries import Provenance
from llm_config_sdk.snapshot import SnapshotPolicy, SnapshotStore, read_document, write_document

ORIGIN = "https://config.example.com"
METADATA = {
    "created_at": "2024-01-15T10:30:00Z",
    "created_by": "ann",
    "updated_at": "2024-01-15T10:30:00Z",
    "updated_by": "ann",
}


def entry(value, *, key="model", version=1, secret=False, fetched_at=1_700_000_000.0):
    made = ConfigEntry.model_validate(
        {
            "id": "e1",
            "namespace": "app/llm",
            "key": key,
            "value": value,
            "environment": "production",
            "version": version,
            "metadata": METADATA,
            "secret": secret,
        }
    )
    return made.with_provenance(Provenance(fetched_at=fetched_at))


def keep(store, made):
    store.note(("app/llm", made.key, "production"), made)


def look_up(store, key="model"):
    found = store.get(("app/llm", key, "production"))
    return None if found is None else found.value


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "cache" / "snapshot.json"


@pytest.fixture
def open_store(path):
    stores = []

    def open_one(origin=ORIGIN, **policy):
        store = SnapshotStore(SnapshotPolicy(path=path, **policy), origin=origin)
        stores.append(store)
        return store

    yield open_one
    for store in stores:
        store.close()


def test_a_value_is_there_in_the_next_run(open_store):
    first = open_store()
    keep(first, entry({"name": "gpt-4", "limits": [1, 2]}, version=7))
    first.close()

    again = look_up(open_store())

    assert again.value == {"name": "gpt-4", "limits": [1, 2]}
    assert (again.version, again.source, again.provenance.fetched_at) == (7, "snapshot", 1_700_000_000.0)
    assert again.is_stale


def test_an_integer_beyond_a_float_survives_exactly(open_store):
    first = open_store()
    keep(first, entry(2**63 + 1))
    first.close()
    assert look_up(open_store()).value == 2**63 + 1


def test_the_file_is_for_its_owner_alone(open_store, path):
    store = open_store()
    keep(store, entry("gpt-4"))
    store.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_secret_is_left_out_without_a_key(open_store, path):
    store = open_store()
    keep(store, entry("s3cr3t-canary", secret=True))
    keep(store, entry("plain", key="other"))
    store.close()
    assert "s3cr3t-canary" not in path.read_text()
    assert look_up(open_store()) is None
    assert look_up(open_store(), "other").value == "plain"


def test_a_secret_is_kept_encrypted_with_a_key(open_store, path):
    key = Fernet.generate_key()
    store = open_store(encryption_key=key)
    keep(store, entry("s3cr3t-canary", secret=True))
    store.close()
    assert "s3cr3t-canary" not in path.read_text()
    again = look_up(open_store(encryption_key=SecretStr(key.decode())))
    assert again.value == SecretStr("s3cr3t-canary")
    assert again.secret


def test_a_secret_does_not_open_with_another_key(open_store, caplog):
    store = open_store(encryption_key=Fernet.generate_key())
    keep(store, entry("s3cr3t-canary", secret=True))
    store.close()
    assert look_up(open_store(encryption_key=Fernet.generate_key())) is None
    assert "does not open with this key" in caplog.text


def test_a_key_that_is_none_is_refused_by_name(path):
    with pytest.raises(InvalidRequestError, match="encryption_key must be 32 bytes"):
        SnapshotStore(SnapshotPolicy(path=path, encryption_key="short"), origin=ORIGIN)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "damaged: no JSON"),
        (b"\x00\xff garbage", "damaged: no JSON"),
        (b"[" * 100_000, "damaged: no JSON"),
        (b"[]", "no snapshot of this SDK"),
        (b'{"format": "something else"}', "no snapshot of this SDK"),
        (b'{"format": "llm-config-sdk snapshot", "version": 99}', "has version 99"),
        (b'{"format": "llm-config-sdk snapshot", "version": 1, "entries": []}', "digest does not fit"),
        (write_document("https://elsewhere.example.com", []), "made with another server"),
        (write_document(ORIGIN, [{"namespace": 1, "key": "k", "environment": "e"}]), "has no name"),
        (write_document(ORIGIN, [{"fetched_at": "yesterday"}]), "is damaged"),
    ],
)
def test_a_damaged_or_foreign_snapshot_is_reported_and_ignored(open_store, path, caplog, content, told):
    path.parent.mkdir()
    path.write_bytes(content)
    store = open_store()
    assert look_up(store) is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert told in record.message
    assert str(path) in record.message


def test_a_snapshot_that_was_cut_short_is_ignored(open_store, path, caplog):
    store = open_store()
    keep(store, entry("gpt-4"))
    store.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert look_up(open_store()) is None
    assert "ignoring" in caplog.text


def test_a_snapshot_that_somebody_changed_is_ignored(open_store, path, caplog):
    store = open_store()
    keep(store, entry("gpt-4"))
    store.close()
    path.write_text(path.read_text().replace("gpt-4", "gpt-5"))
    assert look_up(open_store()) is None
    assert "digest does not fit" in caplog.text


def test_a_path_that_cannot_be_written_is_reported_and_breaks_nothing(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    store = SnapshotStore(SnapshotPolicy(path=blocked / "snapshot.json"), origin=ORIGIN)
    keep(store, entry("gpt-4"))
    store.close()
    assert "could not be written" in caplog.text
    assert look_up(store).value == "gpt-4"


def test_two_clients_of_one_file_join_what_they_know(open_store):
    one, two = open_store(), open_store()
    keep(one, entry("a", key="a"))
    keep(two, entry("b", key="b"))
    one.close()
    two.close()
    again = open_store()
    assert (look_up(again, "a").value, look_up(again, "b").value) == ("a", "b")


def test_the_newer_value_wins_whoever_writes_last(open_store):
    late, early = open_store(), open_store()
    keep(late, entry("new", version=2, fetched_at=2_000.0))
    keep(early, entry("old", version=1, fetched_at=1_000.0))
    late.close()
    early.close()
    assert look_up(open_store()).value == "new"


def test_a_deleted_entry_does_not_come_back(open_store):
    first, second = open_store(), open_store()
    keep(first, entry("gpt-4"))
    first.write()
    again = open_store()
    again.delete(("app/llm", "model", "production"))
    again.close()
    keep(second, entry("other", key="other"))
    second.close()
    assert look_up(open_store()) is None


def _write_many(path, worker):
    store = SnapshotStore(SnapshotPolicy(path=path), origin=ORIGIN)
    for number in range(20):
        keep(store, entry(number, key=f"w{worker}.k{number}"))
        if number % 5 == 0:
            store.write()
    store.close()


def test_processes_that_write_at_once_lose_nothing(path):
    workers = [subprocess.Popen([sys.executable, __file__, path, str(number)]) for number in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    store = SnapshotStore(SnapshotPolicy(path=path), origin=ORIGIN)
    assert len(store) == 60
    assert not list(path.parent.glob(".*"))


def test_a_bootstrap_file_answers_until_something_better_is_known(tmp_path, open_store, path):
    shipped = tmp_path / "shipped.json"
    line = {"namespace": "app/llm", "key": "model", "environment": "production"}
    body = entry("shipped").model_dump(mode="json", by_alias=True)
    shipped.write_text(
        json.dumps({"format": "llm-config-sdk snapshot", "version": 1, "entries": [{**line, "entry": body}]})
    )
    store = SnapshotStore(SnapshotPolicy(path=path), origin=ORIGIN, bootstrap=shipped)
    assert look_up(store).value == "shipped"
    keep(store, entry("fetched"))
    assert look_up(store).value == "fetched"
    store.delete(("app/llm", "model", "production"))
    assert look_up(store) is None
    store.close()


def test_a_bootstrap_file_that_is_missing_is_reported(tmp_path, caplog):
    store = SnapshotStore(None, origin=ORIGIN, bootstrap=tmp_path / "nowhere.json")
    assert len(store) == 0
    assert "does not exist" in caplog.text


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused_with_a_value_error(raw):
    with pytest.raises(ValueError, match="it "):
        read_document(raw, origin=ORIGIN)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_a_document_is_read_as_it_was_written(value):
    line = {"namespace": "n", "key": "k", "environment": "e", "fetched_at": 1.0, "entry": {"value": value}}
    assert read_document(write_document(ORIGIN, [line]), origin=ORIGIN) == [line]


if __name__ == "__main__":  # one of the processes that write at once
    _write_many(Path(sys.argv[1]), sys.argv[2])

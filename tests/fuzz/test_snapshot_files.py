"""A snapshot that a disk, a crash or another program has changed: the client starts, without wrong values."""

import hashlib
import json
import tempfile
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from hypothesis import example, given, strategies as st

from fuzz.strategies import ENTRY, bodies, damaged, examples, json_values, mutated
from llm_config_sdk import ConfigClient, SnapshotPolicy
from llm_config_sdk.entries import ConfigEntry, Provenance
from llm_config_sdk.snapshot import FORMAT, VERSION, SnapshotStore

ORIGIN = "http://config.test"
POLICY_KEY = Fernet.generate_key()
NAME = ("app", "model", "production")


def written() -> bytes:
    """A real snapshot: a plain entry, a sealed secret, and one that is gone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "snapshot.json")
        store = SnapshotStore(SnapshotPolicy(path=path, encryption_key=POLICY_KEY), origin=ORIGIN)
        for changes in ({}, {"key": "api-key", "value": "s3cr3t", "secret": True}):
            entry = ConfigEntry.model_validate({**ENTRY, **changes})
            name = (entry.namespace, entry.key, entry.environment.value)
            store.note(name, entry.with_provenance(Provenance(fetched_at=1.0)))
        store.note(("app", "gone", "production"), entry)
        store.delete(("app", "gone", "production"))
        store.close()
        return path.read_bytes()


def with_digest(line, *, deep=0):
    """Write what another program would: any line, under a digest that fits."""
    body = {"format": FORMAT, "version": VERSION, "origin": ORIGIN, "entries": [line]}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    text = text.replace('"DEEP"', "[" * deep + "]" * deep)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-1]},"digest":"sha256:{digest}"}}'.encode()


WHOLE = written()


def opened(raw, *, bootstrap=False):
    """Open a store on a file with these bytes, and write it again, as a client does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "snapshot.json")
        path.write_bytes(raw)
        policy = SnapshotPolicy(path=Path(folder, "own") if bootstrap else path, encryption_key=POLICY_KEY)
        store = SnapshotStore(policy, origin=ORIGIN, bootstrap=path if bootstrap else None)
        entries = {entry.key: entry for entry in store.entries()}
        assert repr(store)
        assert len(store) >= len(entries)
        for name in [NAME, ("app", "gone", "production")]:
            store.get(name)
        store.write()
        store.close()
        return entries


INTACT = opened(WHOLE)


def test_the_file_that_is_broken_below_is_whole():
    assert INTACT["model"].value == "gpt-4"
    assert INTACT["api-key"].value.get_secret_value() == "s3cr3t"
    assert set(INTACT) == {"model", "api-key"}


@examples(150)
@given(damaged(WHOLE))
def test_a_damaged_file_is_all_there_or_not_there(raw):
    assert opened(raw) in ({}, INTACT)


@examples(60)
@given(bodies)
def test_a_file_of_something_else_is_not_there(raw):
    assert opened(raw) == {}
    assert opened(raw, bootstrap=True) == {}


_line = {"namespace": "app", "key": "model", "environment": "production", "fetched_at": 1.0, "entry": ENTRY}
_sealed = {**_line, "entry": {**ENTRY, "value": None, "sealed": "gAAAA"}}
_lines = st.sampled_from([_line, _sealed]).flatmap(mutated)


@examples(150)
@given(_lines | json_values, st.booleans())
@example({**_line, "fetched_at": 10**400}, False)
@example({**_line, "fetched_at": float("nan")}, True)
@example({**_sealed, "entry": {**ENTRY, "sealed": "\ud800"}}, True)
@example({**_line, "entry": {**ENTRY, "value": "\ud800"}}, False)
def test_a_well_formed_file_may_hold_any_lines(line, is_shipped):
    opened(with_digest(line), bootstrap=is_shipped)


@examples(20)
@given(st.integers(1, 3000), st.booleans())
def test_a_value_may_be_as_deep_as_it_likes(depth, is_shipped):
    line = {**_line, "entry": {**ENTRY, "value": "DEEP"}}
    opened(with_digest(line, deep=depth), bootstrap=is_shipped)


@pytest.mark.parametrize("argument", ["snapshot", "bootstrap"])
@examples(20)
@given(raw=damaged(WHOLE) | bodies)
def test_a_client_starts_whatever_its_file_says(argument, raw):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "snapshot.json")
        path.write_bytes(raw)
        with ConfigClient(ORIGIN, **{argument: path}) as client:
            assert client.status.snapshot_entries in {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["folder", "missing", "dangling link", "looping link"])
def test_a_path_may_lead_to_anything(tmp_path, kind):
    path = tmp_path / "snapshot.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "looping link":
        path.symlink_to(path)
    with ConfigClient(ORIGIN, snapshot=path) as client:
        assert client.status.snapshot_entries == 0

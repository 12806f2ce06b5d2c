"""The store of entries: ages, bounds, and writes that overtake reads."""

import threading

import pytest

from llm_config_resilience import ManualClock
from llm_config_sdk.cache import EntryCache, Fetched
from llm_config_sdk.contract import Environment
from llm_config_sdk.entries import ConfigEntry
from llm_config_sdk.policy import CachePolicy

KEY = ("app", "n", "production")
MOMENT = "2024-01-15T10:30:00Z"


def entry(value=1, key="n"):
    return ConfigEntry.model_validate(
        {
            "id": "i",
            "namespace": "app",
            "key": key,
            "value": value,
            "environment": "production",
            "version": 1,
            "metadata": {"created_at": MOMENT, "created_by": "a", "updated_at": MOMENT, "updated_by": "a"},
        }
    )


@pytest.fixture
def manual():
    return ManualClock()


@pytest.fixture
def cache(manual):
    return EntryCache(CachePolicy(ttl=10, max_entries=2), manual)


def test_an_entry_is_fresh_for_its_time(cache, manual):
    cache.keep(KEY, Fetched(entry(), cache.writes))
    manual.advance(9.9)
    assert cache.fresh(KEY).value == 1
    manual.advance(0.1)
    assert cache.fresh(KEY) is None
    assert cache.get(KEY).value.value == 1, "it is stale, not gone"


def test_a_kept_entry_says_that_it_is_cached(cache):
    cache.keep(KEY, Fetched(entry(), cache.writes))
    assert (cache.fresh(KEY).source, cache.fresh(KEY).attempts) == ("cache", 0)
    assert cache.fresh(KEY) is cache.fresh(KEY), "nothing is copied on the way out"


def test_an_environment_stands_for_its_own_name(cache):
    cache.keep(KEY, Fetched(entry(), 0))
    assert cache.fresh(("app", "n", Environment.PRODUCTION)) is not None
    assert cache.fresh(("app", "n", Environment.STAGING)) is None


def test_the_entry_stored_longest_ago_makes_room(cache):
    for key in ("a", "b", "a", "c"):
        cache.keep(("app", key, "production"), Fetched(entry(key=key), 0))
    assert len(cache) == 2
    assert cache.fresh(("app", "a", "production")) is not None
    assert cache.fresh(("app", "b", "production")) is None


def test_what_was_asked_for_before_a_write_is_not_kept_after_it(cache):
    before = cache.writes
    cache.delete(KEY)
    cache.keep(KEY, Fetched(entry("old"), before))
    assert cache.get(KEY) is None
    cache.keep(KEY, Fetched(entry("new"), cache.writes))
    assert cache.fresh(KEY).value == "new"


def test_a_write_of_one_entry_does_not_concern_another(cache):
    before = cache.writes
    cache.delete(("app", "other", "production"))
    cache.keep(KEY, Fetched(entry(), before))
    assert cache.fresh(KEY) is not None


def test_when_a_write_is_no_longer_remembered_older_reads_are_not_kept(cache, monkeypatch):
    monkeypatch.setattr("llm_config_sdk.cache._WRITES_REMEMBERED", 2)
    before = cache.writes
    for key in ("n", "x", "y"):
        cache.delete(("app", key, "production"))
    cache.keep(KEY, Fetched(entry("old"), before))
    assert cache.get(KEY) is None


def test_a_fresh_entry_is_read_while_somebody_holds_the_lock(cache):
    cache.keep(KEY, Fetched(entry(), 0))
    found = []
    with cache._lock:
        reader = threading.Thread(target=lambda: found.append(cache.fresh(KEY)))
        reader.start()
        reader.join(5)
    assert found[0].value == 1


def test_its_repr_shows_how_full_it_is_and_no_value(cache):
    cache.keep(KEY, Fetched(entry("s3cr3t"), 0))
    assert repr(cache) == "EntryCache(1 of 2)"

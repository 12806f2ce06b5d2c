"""One strategy a key, and not without bound."""

from __future__ import annotations

import threading

import pytest

from llm_config_resilience import (
    CircuitBreaker,
    CircuitOpenError,
    Failover,
    PerKey,
    PerTarget,
    Pipeline,
    Scope,
    Timeout,
)


def fail(_tenant):
    raise ConnectionError


def by_tenant(**settings):
    return PerKey(lambda tenant: CircuitBreaker(1, name=tenant), key=lambda tenant: tenant, **settings)


def test_every_key_has_a_circuit_of_its_own(colour, clock):
    circuits = by_tenant()
    pipeline = Pipeline(circuits, clock=clock)
    with pytest.raises(ConnectionError):
        colour.call(pipeline, fail, "a")
    with pytest.raises(CircuitOpenError) as caught:
        colour.call(pipeline, str, "a")
    assert caught.value.name == "a"
    assert colour.call(pipeline, str, "b") == "b"
    assert {key: circuit.state for key, circuit in circuits.strategies.items()} == {
        "a": "open",
        "b": "closed",
    }


def test_the_one_longest_unused_goes_first(colour, clock):
    circuits = by_tenant(max_keys=2)
    pipeline = Pipeline(circuits, clock=clock)
    for tenant in ("a", "b", "a", "c"):
        colour.call(pipeline, str, tenant)
    assert list(circuits.strategies) == ["a", "c"]


def test_a_call_on_its_way_keeps_its_strategy(clock):
    circuits = by_tenant(max_keys=1)
    pipeline = Pipeline(circuits, clock=clock)
    mine = circuits.of("a")

    def fail_after_another(_tenant):
        pipeline.call(str, "b")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        pipeline.call(fail_after_another, "a")
    assert mine.state == "open"
    assert list(circuits.strategies) == ["b"]


def test_threads_that_come_first_together_share_one_strategy():
    made, together, found = [], threading.Barrier(8, timeout=30), []

    def factory():
        made.append(CircuitBreaker())
        return made[-1]

    circuits = PerKey(factory, key=lambda tenant: tenant)

    def find():
        together.wait()
        found.append(circuits.of("a"))

    threads = [threading.Thread(target=find) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert found == made * 8


def test_a_target_is_a_key(colour, clock):
    circuits = PerTarget(lambda target: CircuitBreaker(name=target))
    assert colour.call(Pipeline(Failover(["a"]), circuits, clock=clock), str) == "a"
    assert list(circuits.strategies) == ["a"]


def test_a_scope_cannot_differ_by_key(clock):
    with pytest.raises(TypeError, match="scope"):
        Pipeline(PerKey(lambda: Timeout(1), key=lambda: "k"), clock=clock).call(int)
    with pytest.raises(ValueError, match="max_keys"):
        by_tenant(max_keys=0)


def test_branches_on_different_targets_keep_their_own_choice(clock):
    circuits = {"a": CircuitBreaker(1), "b": CircuitBreaker(1)}

    class Twice(Scope):
        """The second branch runs while the first is on its way."""

        def around(self, ctx, _at, proceed):
            first, second = ctx.fork(), ctx.fork()

            def meanwhile():
                proceed(second)
                raise ConnectionError

            first.args, second.args = (meanwhile, "a"), (int, "b")
            return proceed(first)

    outer = PerKey(lambda: CircuitBreaker(9), key=lambda *_: "all")
    inner = PerKey(lambda tenant: circuits[tenant], key=lambda _work, tenant: tenant)
    with pytest.raises(ConnectionError):
        Pipeline(outer, Twice(), inner, clock=clock).call(lambda work, _tenant: work(), int, "")
    assert {key: circuit.state for key, circuit in circuits.items()} == {"a": "open", "b": "closed"}

"""Every fault, every operation, every face, both profiles: the right error, as many requests, nothing left.

Here runs a covering part of it. `make faults` runs the whole product.
"""

import os
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations

import pytest

from client_faces import Face
from integration import fault_matrix as matrix
from integration.fault_matrix import Cell, Effect
from integration.footprint import busy, nothing_left_behind, tasks, wait_until
from llm_config_sdk import LLMConfigError, RequestTimeoutError

WHOLE = os.environ.get("FAULT_MATRIX") == "whole"
CELLS = matrix.everything() if WHOLE else matrix.covering()


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_call_ends_as_the_rules_say_and_leaves_nothing_behind(cell):
    for attempt in matrix.patiences():
        came = play(cell, attempt)
        if came == cell.expected or cell.fault.effect is not Effect.SLOW or came.seen > came.attempts:
            break  # else the machine stalled, for which the attempts of a slow cell have little time
    assert came == cell.expected


def play(cell: Cell, attempt: float) -> matrix.Expected:
    """Make the call of a cell, and say what became of it."""
    with nothing_left_behind(), ExitStack() as stack:  # of the servers, too, some of which begin anew
        stage = matrix.stage_for(cell, stack)
        face = Face(cell.face, stack)
        running = tasks(face)
        client = matrix.connect(face, cell, stage, attempt)
        matrix.begin(client, cell, stage)
        came = call(client, cell, stage)
        check_effect(cell, stage, came)
        assert busy(client.client) == ""
        matrix.heal(stage)
        came = replace(came, works_again=wait_until(lambda: works(client)))
        client.close()
        assert wait_until(lambda: tasks(face) == running)
    return came


def works(client) -> bool:
    """Say whether a read is answered; on a machine that stalls, an attempt may be too short."""
    try:
        client.list_configs(matrix.NAMESPACE)
    except RequestTimeoutError:
        return False
    return True


def call(client, cell: Cell, stage: matrix.Stage) -> matrix.Expected:
    """Make the call, and look at the error and the journal."""
    journal, seen = stage.server.journal, cell.expected.seen
    error = None
    try:
        found = cell.operation.call(client)
    except LLMConfigError as caught:
        error = caught
        attempts = error.attempts
        check_error(cell, stage, error)
    else:
        attempts = getattr(found, "attempts", None) or cell.expected.attempts
    wait_until(lambda: len(journal) >= seen, 1.0)  # what hangs there may be written down a moment later
    return matrix.Expected(type_of(error, cell), attempts, len(journal), getattr(error, "never_sent", None))


def type_of(error, cell: Cell):
    """Name the class that was expected, if it is exactly that; else the class itself."""
    if error is None:
        return None
    public = next(cls for cls in type(error).__mro__ if not cls.__name__.startswith("_"))
    expected = cell.expected.error
    return expected if expected is not None and public.__name__ == expected.__name__ else public


def check_error(cell: Cell, stage: matrix.Stage, error: LLMConfigError) -> None:
    """An error says where it happened, and why."""
    assert error.endpoint == stage.url
    assert "<" not in error.message
    if cell.fault.effect in {Effect.UNSENT, Effect.UNTRUSTED, Effect.LOST}:
        assert error.__cause__ is not None, "the library's own"
    if cell.fault.effect is Effect.UNTRUSTED:
        assert error.details["tls"]


def check_effect(cell: Cell, stage: matrix.Stage, came: matrix.Expected) -> None:
    """A write took effect once at most: if it was answered, once; if no request was seen, never."""
    entry = stage.server.entry(matrix.NAMESPACE, matrix.KEY, env="production")
    times = 1 if entry is None else entry["version"] - 2
    is_write = cell.operation.kind in {"write", "keyed write", "delete"}
    is_honoured = cell.operation.kind != "keyed write" or cell.profile == "guide"
    if not is_honoured:
        return  # this server applies it as often as it comes, and a key says that it does not
    assert times in {0, 1}
    if not is_write or came.seen == 0:
        assert times == 0
    elif came.error is None:
        assert times == 1 or cell.fault.effect is Effect.EMPTY


def test_the_covering_part_has_every_pair():
    def value(cell, axis):
        return getattr(getattr(cell, axis), "name", getattr(cell, axis))

    axes = ("fault", "operation", "face", "profile")
    for one, two in combinations(axes, 2):
        pairs = {(value(cell, one), value(cell, two)) for cell in matrix.everything()}
        covered = {(value(cell, one), value(cell, two)) for cell in matrix.covering()}
        assert covered == pairs, (one, two)


def test_the_covering_part_has_every_fault_on_kept_and_new_connections_once_and_for_good():
    for fault in matrix.FAULTS:
        cells = [cell for cell in matrix.covering() if cell.fault is fault]
        assert {cell.lasting for cell in cells} == set(fault.spans)
        assert {cell.kept for cell in cells} == ({True} if fault.needs_kept else {True, False})

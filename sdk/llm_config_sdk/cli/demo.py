"""`demo`: what the SDK does when servers fail, played through and checked."""

import time
from typing import Any

import typer

from llm_config_sdk.cli import options, story
from llm_config_sdk.cli.exits import Exit
from llm_config_sdk.cli.output import console, write_json
from llm_config_sdk.cli.screen import Screen
from llm_config_sdk.cli.stage import FACES, Stage, curtain


def demo(*, as_json: options.AsJson = False) -> None:
    """Play a story with two real servers: writes, errors, retries, failover, stale values, recovery.

    Every step checks its claims against the servers' own journals. If one does not hold, the exit code is 1.
    """
    began = time.perf_counter()
    screen = None if as_json else Screen(console())
    played: list[story.Played] = []
    with curtain() as stage:
        servers = {"primary": stage.primary.url, "backup": stage.backup.url}
        if screen is not None:
            screen.open(**servers)
        for number, step in enumerate(story.STEPS, start=1):
            played.append(_play(step, number, stage, screen))
    seconds = time.perf_counter() - began
    if screen is not None:
        screen.close(played, seconds)
    else:
        write_json(_document(played, servers, seconds))
    if not all(each.holds for each in played):
        raise typer.Exit(Exit.FAILED)


def _play(step: story.Step, number: int, stage: Stage, screen: Screen | None) -> story.Played:
    played = story.play(step, number, stage)
    if screen is not None:
        screen.show(played)
    return played


def _document(played: list[story.Played], servers: dict[str, str], seconds: float) -> dict[str, Any]:
    claims = [check for each in played for checks in each.checks for check in checks]
    return {
        "ok": all(each.holds for each in played),
        "seconds": round(seconds, 3),
        "servers": servers,
        "claims": {
            "held": sum(check.holds for check in claims),
            "failed": sum(not check.holds for check in claims),
        },
        "steps": [_step_document(each) for each in played],
    }


def _step_document(played: story.Played) -> dict[str, Any]:
    return {
        "number": played.number,
        "title": played.step.title,
        "says": played.step.says,
        "code": played.step.code.splitlines(),
        "ok": played.holds,
        "seconds": round(played.seconds, 4),
        "runs": {
            face: {
                "output": list(run.printed),
                "error": type(run.error).__name__ if run.error is not None else None,
                "seconds": round(run.seconds, 4),
                "requests": {"primary": list(run.primary), "backup": list(run.backup)},
                "circuits": list(run.circuits),
                "warnings": list(run.warnings),
                "claims": [
                    {
                        "claim": check.claim,
                        "expected": check.expected,
                        "found": check.found,
                        "holds": check.holds,
                    }
                    for check in checks
                ],
            }
            for face, run, checks in zip(FACES, played.runs, played.checks, strict=True)
        },
    }

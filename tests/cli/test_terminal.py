"""Commands where they are used: in pipes, on full disks and narrow terminals, with Ctrl-C and Tab."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import LISTENING_TO_CTRL_C, PROGRAM_TIMEOUT
from llm_config_mock_server import hang

COMMAND = [sys.executable, "-W", "error", "-m", "llm_config_sdk"]


def begin(*words, command=COMMAND, **how):
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **how}
    return subprocess.Popen([*command, *words], **how)


def end(running):
    told = running.communicate(timeout=PROGRAM_TIMEOUT)
    return running.returncode, *told


@pytest.mark.parametrize("words", [("list", "app/llm"), ("export", "app/llm"), ("explain",)])
def test_a_reader_that_goes_away_is_no_error_to_talk_about(at_server, words):
    ours, theirs = os.pipe()
    running = begin(*words, stdout=theirs)
    os.close(theirs)
    os.close(ours)  # as `| head -1` does, and before anything is written
    code, _, told = end(running)
    assert (code, told) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("words", [("get", "app/llm", "model"), ("list", "app/llm"), ("--help",)])
def test_a_full_disk_is_one_line(at_server, words):
    with Path("/dev/full").open("w") as full:
        code, _, told = end(begin(*words, stdout=full))
    assert (code, told) == (1, "llm-config-sdk: cannot write: No space left on device\n")


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0)])
def test_streams_that_are_closed_end_no_command(at_server, closed, code):
    line = f'"$0" "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", line, *COMMAND, "get", "app/llm", "model"],
        check=False,
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
    )
    assert (done.returncode, done.stderr) == (code, "")


def test_ctrl_c_ends_a_command_that_waits_for_a_server(at_server):
    at_server.script("*", [hang()], repeat="last")
    listening = [sys.executable, "-W", "error", "-c", LISTENING_TO_CTRL_C]
    running = begin("list", "app/llm", "--timeout", "60", command=listening)
    at_server.journal.wait_for(1, timeout=PROGRAM_TIMEOUT)
    running.send_signal(signal.SIGINT)
    code, out, told = end(running)
    assert (code, out) == (130, "")
    assert "Traceback" not in told


def test_a_narrow_terminal_gets_lines_instead_of_slivers(invoke, at_server, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    assert '- key: limits\n  value: {"tokens": 512}\n  version: 1\n' in invoke("list", "app/llm").stdout
    assert "- version: 1\n  value: gpt-4o\n" in invoke("history", "app/llm", "model").stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [("wa", "watch"), ("get app/llm model --env stag", "staging"), ("explain DECRY", "DECRYPTION_ERROR")],
)
def test_tab_completes_in_bash(words, offered):
    asked = [*f"llm-config-sdk {words}".split()]
    script = (
        'eval "$(llm-config-sdk --show-completion bash)"; complete -p llm-config-sdk >/dev/null || exit 9; '
        f"COMP_WORDS=({' '.join(asked)}); COMP_CWORD={len(asked) - 1}; "
        '_llm_config_sdk_completion llm-config-sdk; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [offered], "")

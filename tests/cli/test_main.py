"""The entry point, and what is there without the extras."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import llm_config_sdk
from llm_config_sdk.cli.exits import EXITS

CLI = Path(llm_config_sdk.__file__).parent / "cli"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_one_line_says_which_to_install(missing):
    blocked = f"import sys; sys.modules[{missing!r}] = None; from llm_config_sdk.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", blocked], check=False, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.splitlines() == [
        f'llm-config-sdk: {missing} is not installed: pip install "llm-config-sdk[cli]"'
    ]


def test_another_missing_module_is_no_missing_extra():
    blocked = (
        "import sys; sys.modules['llm_config_sdk.cli.exits'] = None; "
        "from llm_config_sdk.cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", blocked], check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "llm_config_sdk.cli.exits" in ended.stderr
    assert "pip install" not in ended.stderr


def test_importing_the_sdk_loads_nothing_of_the_command_line():
    asked = (
        "import sys, llm_config_sdk; print([m for m in ('typer', 'llm_config_sdk.cli') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True)
    assert ended.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.name)
def test_the_server_is_imported_only_where_it_is_used(path):
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert "llm_config_mock_server" not in ast.unparse(node)


def test_help_names_every_command_and_exit_code(invoke):
    shown = invoke("--help")
    assert shown.exit_code == 0
    for command in (
        "get",
        "set",
        "list",
        "history",
        "rollback",
        "delete",
        "health",
        "explain",
        "watch",
        "export",
        "import",
        "doctor",
        "demo",
        "serve",
    ):
        assert f" {command} " in shown.stdout
    words = " ".join(shown.stdout.split())
    for row in EXITS:
        assert f"{row.code.value} {row.meaning}" in words


def test_the_version(program):
    ended = program("--version")
    assert (ended.returncode, ended.stdout) == (0, f"llm-config-sdk {llm_config_sdk.__version__}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there_for_each_shell(program, shell):
    asked = program(
        _LLM_CONFIG_SDK_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS="llm-config-sdk wa",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        COMP_WORDS="llm-config-sdk wa",
        COMP_CWORD="1",
    )
    assert asked.returncode == 0
    assert "watch" in asked.stdout
    assert "rollback" not in asked.stdout


def test_environments_are_completed(program):
    asked = program(
        _LLM_CONFIG_SDK_COMPLETE="complete_bash",
        COMP_WORDS="llm-config-sdk get app/llm model --env prod",
        COMP_CWORD="5",
    )
    assert (asked.returncode, asked.stdout.split()) == (0, ["production"])

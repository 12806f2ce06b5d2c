"""What a release is made of, and what carries it out: files that nobody looks at until it is too late."""

import io
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import check
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
NAME = re.compile(r"^[A-Za-z0-9._-]+")


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


def steps(document):
    return [step for job in document["jobs"].values() for step in job["steps"]]


# --- Workflows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_full_commit_with_the_version_beside_it(path):
    used = re.findall(r"uses: (\S+)(.*)", path.read_text())
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), f"{action}{comment}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_and_nothing_else_unless_a_job_says_what_for(path):
    document = yaml.safe_load(path.read_text())
    assert document["permissions"] == {"contents": "read"}
    for name, job in document["jobs"].items():
        assert set(job.get("permissions", {})) <= {"id-token", "attestations"}, name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_targets_that_the_makefile_has(path):
    called = re.findall(
        r"make ([a-z-]+)", "\n".join(step.get("run", "") for step in steps(workflow(path.name)))
    )
    assert called
    assert set(called) <= set(TARGETS)


def test_nothing_is_published_but_from_a_tag_in_an_environment_of_its_own_without_a_token():
    document = workflow("release.yml")
    assert document[True] == {"push": {"tags": ["v*"]}}  # YAML takes `on` for true
    (publishing,) = [
        name
        for name, job in document["jobs"].items()
        if any("publish" in step.get("uses", "") for step in job["steps"])
    ]
    job = document["jobs"][publishing]
    assert job["environment"]
    assert job["permissions"] == {"id-token": "write"}
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert not any("build" in step.get("run", "") for step in job["steps"])  # what was checked is published


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_python_that_is_claimed_is_tested(path):
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    matrices = [
        job["strategy"]["matrix"]["python"]
        for job in workflow(path.name)["jobs"].values()
        if "strategy" in job
    ]
    assert matrices
    assert all(matrix == claimed for matrix in matrices)


# --- The distribution -----------------------------------------------------------------------------


def test_every_package_that_the_project_names_is_pinned_for_its_developers():
    pinned = {
        normal(NAME.match(line)[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    groups = [
        item for group in PROJECT["dependency-groups"].values() for item in group if isinstance(item, str)
    ]
    extras = [item for extra in PROJECT["project"]["optional-dependencies"].values() for item in extra]
    named = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"], *groups, *extras]
    wanted = {normal(NAME.match(item)[0]) for item in named} - {"llm-config-sdk"}
    assert wanted - pinned == set()


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_extra_has_a_program_that_shows_what_it_is_for():
    proofs = {path.stem for path in (ROOT / "tests" / "release" / "extras").glob("*.py")}
    assert proofs == {"core", *PROJECT["project"]["optional-dependencies"]}


def test_all_extras_are_in_all():
    extras = PROJECT["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(re.search(r"\[(.*)\]", everything)[1].split(",")) == set(extras) - {"all"}


def test_the_changelog_has_the_form_that_it_names():
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:])
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_hooks_of_git_call_nothing_but_the_projects_own_tools():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (local,) = hooks["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith((".venv/bin/", "make ")), hook["id"]


# --- The tool itself: a check that cannot fail is none --------------------------------------------


def a_wheel(path, text, *, mode=0o644):
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("package/module.py", (2020, 1, 1, 0, 0, 0))
        member.external_attr = mode << 16
        archive.writestr(member, text)
    return path


def test_the_same_bytes_are_no_difference(tmp_path):
    check.difference(a_wheel(tmp_path / "one.whl", "x = 1"), a_wheel(tmp_path / "two.whl", "x = 1"))


@pytest.mark.parametrize("change", [{"text": "x = 2"}, {"text": "x = 1", "mode": 0o600}])
def test_a_member_that_differs_is_named(tmp_path, change):
    other = a_wheel(tmp_path / "two.whl", **change)
    with pytest.raises(check.CheckFailedError, match=r"package/module\.py"):
        check.difference(a_wheel(tmp_path / "one.whl", "x = 1"), other)


def test_a_member_of_an_sdist_that_differs_is_named(tmp_path):
    def packed(name, text):
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            member = tarfile.TarInfo("project/module.py")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
        return tmp_path / name

    with pytest.raises(check.CheckFailedError, match=r"project/module\.py"):
        check.difference(packed("one.tar.gz", b"x = 1"), packed("two.tar.gz", b"x = 2"))


def test_a_failed_step_is_recorded_told_and_does_not_end_the_run(tmp_path, capsys):
    run = check.Run(tmp_path, [], [], None)
    with run.step("two are two"):
        check.expect(1 + 1, 3, "the sum")
    with run.step("one is one"):
        check.expect(1, 1, "one")
    run.skip("Python 3.99", "this machine does not have it")
    assert [step.outcome for step in run.steps] == ["FAILED", "ok", "skipped"]
    assert check.summary(run) == 1
    printed = capsys.readouterr().out
    assert "the sum: 2, and not 3" in printed
    assert "1 ok, 1 FAILED, 1 skipped" in printed
    assert "this machine does not have it" in printed


def test_a_program_that_fails_is_told_with_what_it_printed():
    with pytest.raises(check.CheckFailedError, match="status 3\nit went wrong"):
        check.call("sh", "-c", "echo it went wrong >&2; exit 3")


def test_a_python_that_was_asked_for_and_is_not_there_fails_the_check(capsys):
    assert check.main(["metadata", "--pythons", "3.99"]) == 2
    assert "there is no Python 3.99 here" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["bild"], ["install", "--extras", "redys"]])
def test_a_part_or_an_extra_that_does_not_exist_is_refused(words):
    with pytest.raises(SystemExit):
        check.main(words)


def test_a_link_into_the_repository_is_seen_in_a_rendered_page():
    assert check.links('<a href="docs/index.md">x</a><img src="y.png">') == ["docs/index.md", "y.png"]

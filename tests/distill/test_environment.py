"""What a run runs on."""

import json
import subprocess

from distill.environment import _commit, _version, changed, environment


def test_the_environment_is_json_and_names_versions_and_devices():
    now = environment()
    assert now == json.loads(json.dumps(now))
    assert now["packages"]["jax"] and now["devices"][2] >= 1


def test_a_package_that_is_not_installed_has_no_version():
    assert _version("no-such-package-anywhere") is None


def test_the_command_and_the_time_are_no_change():
    now = environment()
    assert changed(now, now | {"command": ["other"], "started": "later"}) == []
    assert [str(one) for one in changed(now | {"python": "1"}, now | {"python": "2"})] == ["python: '1' -> '2'"]


def test_the_commit_is_that_of_the_repository_and_marked_when_files_differ(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout

    assert _commit(tmp_path) is None
    git("init", "-q")
    assert _commit(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "-q", "-m", "a")
    assert _commit(tmp_path) == git("rev-parse", "HEAD").strip()
    (tmp_path / "a").write_text("b")
    assert _commit(tmp_path) == git("rev-parse", "HEAD").strip() + "+"

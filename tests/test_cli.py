"""The `ssl-fast` command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import ssl_fast
from ssl_fast import cli

ROOT = Path(ssl_fast.__file__).parent.parent


def outcome(arguments, capsys):
    """Exit code, standard output and standard error of a command line."""
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_version(capsys):
    assert outcome(["--version"], capsys) == (0, f"ssl_fast {ssl_fast.__version__}\n", "")


def test_help_lists_the_commands(capsys):
    code, out, err = outcome(["--help"], capsys)
    assert (code, err) == (0, "")
    assert all(name in out and text in out for name, _, text in cli.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense", "--json"], "unknown command 'nonsense'"),
        ([""], "unknown command ''"),
        ([], "no command was given"),
        (["--"], "unknown option '--'"),
        (["--nonsense", "doctor"], "unknown option '--nonsense'"),
    ],
)
def test_what_is_not_understood_is_one_line(arguments, named, capsys):
    code, out, err = outcome(arguments, capsys)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert named in err
    assert all(name in err for name, _, _ in cli.COMMANDS)


def test_unknown_option_of_a_command(capsys):
    code, _, err = outcome(["doctor", "--nonsense"], capsys)
    assert code == 2
    assert "ssl-fast doctor" in err


def test_a_command_gets_the_rest_of_the_line(monkeypatch):
    seen = []
    command = SimpleNamespace(main=lambda argv: seen.append(argv) or 7)
    monkeypatch.setitem(sys.modules, "a_command", command)
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, ("train", "a_command", "trains")))
    assert cli.main(["train", "--help", "--version", "x", "--", "y"]) == 7
    assert seen == [["--help", "--version", "x", "--", "y"]]


def test_doctor(capsys):
    code, out, err = outcome(["doctor"], capsys)
    assert (code, err) == (0, "")
    assert "who serves" in out


def test_python_m_ssl_fast():
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "ssl_fast", "doctor", "--json"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["versions"]["ssl_fast"] == ssl_fast.__version__

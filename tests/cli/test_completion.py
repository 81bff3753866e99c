"""What a shell completes, asked for as the scripts of bash, zsh and fish ask; and every way to start the program."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from xnor_ref.bench.measuring.layers import LAYER_SETS
from xnor_ref.cli import main, text
from xnor_ref.cli.completion import VARIABLE
from xnor_ref.cli.group import COMMANDS
from xnor_ref.experiments.catalogue import EXPERIMENTS
from xnor_ref.models import names
from xnor_ref.nn.methods import METHODS

ASKED = [
    ("", list(COMMANDS)),
    ("ev", ["evaluate"]),
    ("train --metho", ["--method"]),
    ("train --mod", ["--model", "--model-option"]),
    ("train --model ", list(names())),
    ("train --epochs 2 --method xnor", [name for name in METHODS if name.startswith("xnor")]),
    ("train --pad-value ", ["-1", "0", "1"]),
    ("train --no-r", ["--no-relu", "--no-react", "--no-rprelu"]),
    ("train --epochs ", []),
    ("export --which ", ["best", "last"]),
    ("info --network vg", ["vgg-small"]),
    ("reproduce ", list(EXPERIMENTS)),
    (
        "bench ",
        [
            "layers",
            "depthwise",
            "network",
            "train",
            "distributed",
            "scale",
            "figure4",
            "startup",
            "ladder",
            *LAYER_SETS,
        ],
    ),
    ("bench al", ["alexnet"]),
    ("bench resnet18 --thr", ["--threads"]),
    ("bench network res", ["resnet18", "resnet20"]),
    ("bench --lay", ["--layer"]),
    ("bench nothing --pl", ["--plot"]),
]
PATHS = [
    "evaluate ",
    "predict runs/a ",
    "export runs/a -o ",
    "train --teacher ",
    "train --config ",
    "train --out runs/",
]


def complete(words: str, monkeypatch, capfd, shell: str = "bash") -> list[str]:
    """What click's script for a shell is told when Tab is pressed after `xnor-ref WORDS`."""
    typed = ["xnor-ref", *words.split(" ")]
    monkeypatch.setenv(VARIABLE, f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(typed))
    monkeypatch.setenv("COMP_CWORD", typed[-1] if shell == "fish" else str(len(typed) - 1))
    assert main([]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return out.splitlines()


@pytest.mark.parametrize("words, expected", ASKED, ids=[repr(words) for words, _ in ASKED])
def test_commands_options_and_choices_are_completed(words, expected, monkeypatch, capfd):
    lines = complete(words, monkeypatch, capfd)
    assert sorted(line.removeprefix("plain,") for line in lines if line) == sorted(expected)


@pytest.mark.parametrize("words", PATHS)
def test_files_are_left_to_the_shell(words, monkeypatch, capfd):
    assert complete(words, monkeypatch, capfd) == [f"file,{words.split(' ')[-1]}"]


def test_completion_runs_no_plugin(tmp_path, monkeypatch, capfd):
    (tmp_path / "mine.py").write_text("raise SystemExit('run')")
    assert "plain,off" in complete(f"train --plugin {tmp_path}/mine.py --weight-scale ", monkeypatch, capfd)


def test_zsh_and_fish_show_what_a_command_does(monkeypatch, capfd):
    assert COMMANDS["verify"] in complete("ver", monkeypatch, capfd, "zsh")
    assert complete("ver", monkeypatch, capfd, "fish")[:2] == ["plain,verify\t" + COMMANDS["verify"]]


def test_completion_of_commands_is_quick_because_it_loads_little(monkeypatch):
    environment = {**os.environ, VARIABLE: "bash_complete", "COMP_WORDS": "xnor-ref t", "COMP_CWORD": "1"}
    code = "import sys; from xnor_ref.cli import main; main(); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.stdout == "plain,train\n"
    assert not {"numpy", "numba", "xnor_ref.cli.commands.train"} & set(done.stderr.split())


SHELLS = {  # what the docs tell to load; how to ask; the answer
    "bash": (
        f'eval "$({VARIABLE}=bash_source xnor-ref)"',
        "COMP_WORDS=(xnor-ref verif); COMP_CWORD=1; _xnor_ref_completion xnor-ref; echo ${COMPREPLY[@]}",
        "verify",
    ),
    "zsh": (
        f'eval "$({VARIABLE}=zsh_source xnor-ref)"',
        "echo ${_comps[xnor-ref]}",
        "_xnor_ref_completion",
    ),
    "fish": (f"{VARIABLE}=fish_source xnor-ref | source", "complete --do-complete 'xnor-ref verif'", "verify"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_for_each_shell_works_in_it(shell, tmp_path):
    load, ask, answer = SHELLS[shell]
    assert load in (REPOSITORY / "docs/command-line.md").read_text()
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = tmp_path / "xnor-ref"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {REPOSITORY / "cli.py"} "$@"\n')
    program.chmod(0o755)
    script = f"{'autoload -Uz compinit; compinit -u' if shell == 'zsh' else ''}\n{load}\n{ask}"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run([shell, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout.split()[:1] == [answer], done.stderr


def test_messages_name_the_program_as_it_was_started(tmp_path):
    started = {
        "python -m xnor_ref": ([sys.executable, "-m", "xnor_ref"], {"PYTHONPATH": str(REPOSITORY)}),
        f"python {REPOSITORY}/cli.py": ([sys.executable, str(REPOSITORY / "cli.py")], {}),
    }
    for shown, (command, environment) in started.items():
        done = subprocess.run(
            [*command, "train", "--dataset", "mnist"],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 3 and f"  {shown} train --dataset mnist --data-dir DIR" in done.stderr


@pytest.mark.parametrize("path", ["/usr/bin/xnor-ref", "C:/xnor-ref.exe", "/lib/pytest/__main__.py"])
def test_an_installed_program_is_named_without_its_folder(path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [path])
    assert text.program() == "xnor-ref"

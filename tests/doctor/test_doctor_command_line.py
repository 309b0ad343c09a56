"""The doctor from the command line: what it prints, and its exit status."""

from __future__ import annotations

import runpy
import sys

import pytest
import torch
from torch import nn

from bnutils import doctor
from bnutils.doctor.__main__ import main

SCRIPT = """
import torch
from torch import nn

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(3)
    def forward(self, a, b):
        return self.bn(a + b)

model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
def fresh(): return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4))
def stuck(): return nn.Sequential(nn.BatchNorm1d(3, momentum=0.0))
def batches(): return [torch.randn(16, 3) for _ in range(4)]
def call(model, batch): return model(batch, batch)
def broken(): raise RuntimeError("no model today")
number = 3
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    (tmp_path / "a_training_script.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "a_training_script", raising=False)
    return "a_training_script"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["{}:fresh"], 0, "no finding (1 batch norm, 0 batches examined)"),
        (["{}:fresh", "--loader", "{}:batches"], 0, "4 batches examined"),
        (["{}:model"], 0, "redundant-bias"),
        (["{}:model", "--strict"], 1, "redundant-bias"),
        (["{}:stuck"], 1, "momentum-zero"),
        (["{}:stuck", "--eval"], 1, "momentum-zero"),
        (["{}:Pair", "--loader", "{}:batches"], 1, "call="),
        (
            ["{}:Pair", "--loader", "{}:batches", "--call", "{}:call"],
            0,
            "4 batches examined",
        ),
        (["--codes"], 0, "wrong-axis: (N, L, C)"),
    ],
)
def test_the_report_is_printed_and_errors_make_the_status_1(
    script, capsys, arguments, status, words
):
    assert main([a.format(script) for a in arguments]) == status
    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("{}:broken", "RuntimeError: no model today"),
        ("{}:number", "a_training_script:number gave a int, no nn.Module"),
        ("{}:missing", "has no attribute 'missing'"),
        ("no_such_module:x", "No module named 'no_such_module'"),
        ("{}", "a_training_script gave a module, no nn.Module"),
    ],
)
def test_what_cannot_be_made_is_said_with_status_2(script, capsys, model, words):
    assert main([model.format(script)]) == 2
    assert words in capsys.readouterr().err


def test_a_checkpoint_is_loaded_before_the_examination(script, capsys, tmp_path):
    trained = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4))
    trained[1].running_var[1] = float("nan")
    torch.save({"state": trained.state_dict()}, tmp_path / "last.pt")
    arguments = [f"{script}:fresh", "--checkpoint", "last.pt"]
    assert main([*arguments, "--key", "state"]) == 1
    assert "nonfinite-statistics" in capsys.readouterr().out
    assert main(arguments) == 2  # not strict would load nothing
    assert "give --key state" in capsys.readouterr().err
    assert main([*arguments, "--key", "model"]) == 2
    assert "holds no 'model', but: state" in capsys.readouterr().err
    torch.save({"epoch": torch.tensor(3)}, tmp_path / "last.pt")
    assert main(arguments) == 2
    assert "Missing key" in capsys.readouterr().err


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_checkpoint_of_a_wrapped_model_is_loaded(script, capsys, tmp_path, wrapper):
    state = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)).state_dict()
    state = {wrapper + name: value for name, value in state.items()}
    torch.save(state, tmp_path / "last.pt")
    assert main([f"{script}:fresh", "--checkpoint", "last.pt"]) == 0


def test_python_dash_m_runs_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bnutils.doctor", "--codes"])
    monkeypatch.delitem(sys.modules, "bnutils.doctor.__main__")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("bnutils.doctor", run_name="__main__")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert all(f" {code}: " in printed for code in doctor.CODES)


def test_without_a_model_it_says_what_it_needs(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "model" in capsys.readouterr().err

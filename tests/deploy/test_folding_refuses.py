"""What has nothing fixed to fold is refused, by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from trained import Backwards, alive, wide_pair

from bnutils import deploy


def test_training_mode_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match=r"training mode: '1' and 1 more.*eval\(\)"):
        deploy.fold(model)
    model.eval()[1].train()
    with pytest.raises(ValueError, match="'1';"):
        deploy.fold(model)
    outer = Backwards().eval()
    outer.training = True  # its forward may branch on it
    with pytest.raises(ValueError, match="the model itself"):
        deploy.fold(outer)


def test_the_first_module_in_training_mode_is_named_where_no_batch_norm_is():
    model = nn.Sequential(
        *wide_pair(), nn.Dropout(), nn.ReLU(), nn.Linear(30, 2)
    ).eval()
    model[2].train(), model[4].train()
    with pytest.raises(ValueError, match="in training mode: '2' and 1 more;"):
        deploy.fold(model)


def test_the_mode_of_a_container_does_not_matter():
    wrapped = nn.Sequential(alive(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))))
    assert wrapped.training
    assert len(deploy.fold(wrapped).report.folded) == 1


def test_missing_statistics_are_refused_by_name():
    inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False))
    model = nn.Sequential(inner).eval()
    with pytest.raises(ValueError, match=r"'0\.1'.*no running statistics"):
        deploy.fold(model)
    half = alive(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    half[1].running_var = None
    with pytest.raises(ValueError, match="'1'"):
        deploy.fold(half)


def test_lazy_scripted_and_compiled_models_are_refused():
    lazy = nn.Sequential(nn.Linear(4, 4), nn.LazyBatchNorm1d()).eval()
    with pytest.raises(ValueError, match="run the model once"):
        deploy.fold(lazy)
    model = alive(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    with pytest.raises(TypeError, match="fold it first"):
        deploy.fold(torch.compile(model))


def test_what_cannot_be_copied_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    model.cache = model[0](torch.randn(2, 4))
    with pytest.raises(TypeError, match="cannot be copied"):
        deploy.fold(model)

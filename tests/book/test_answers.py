"""The pages that answer: what they show runs, and does what they say."""

from __future__ import annotations

import ast
import os
import re
import runpy
import sys
import textwrap
from types import ModuleType, SimpleNamespace

import pytest
import torch
from provenance import ROOT
from torch import nn

from bnutils import data
from bnutils.data import vision

BOOK = ROOT / "book"
SCRIPTS = BOOK / "scripts"
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```", re.M | re.S)


@pytest.fixture
def offline_mnist(monkeypatch, tmp_path):
    """``torchvision.datasets.MNIST`` with the offline digits, in a folder of the test's own."""
    digits = data.load("digits")

    def mnist(root, *, train, download):
        split = digits.train if train else digits.test
        pixels = (split.x * digits.std + digits.mean) * 255
        images = pixels.round().clamp(0, 255).to(torch.uint8).reshape(-1, 28, 28)
        return SimpleNamespace(data=images, targets=split.y)

    module = ModuleType("torchvision.datasets")
    module.MNIST = mnist
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["use_it.py", "use_it_zh.py"])
def test_the_script_runs_as_it_stands(name, offline_mnist, capsys):
    names = runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    *epochs, last = capsys.readouterr().out.splitlines()
    accuracies = [float(re.search(r"([\d.]+)%", line)[1]) for line in epochs]
    assert len(accuracies) == 3
    assert accuracies[-1] > 85  # ten classes; 1,300 images of 8x8 pixels
    image, label = names["test_loader"].dataset[0]
    saved = names["model"](image[None]).argmax(1).item()
    assert list(map(int, re.findall(r"\d", last))) == [saved, label.item()]


def without_words(path) -> str:
    """The syntax tree of a script, with every text made empty."""
    tree = ast.parse(path.read_text("utf8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
            node.args = []  # what is printed is in the page's language
    tree.body = tree.body[1:]  # the docstring
    return ast.dump(tree)


def test_both_languages_show_the_same_program():
    assert without_words(SCRIPTS / "use_it.py") == without_words(
        SCRIPTS / "use_it_zh.py"
    )


def numbers(page: str) -> list[str]:
    """The results in a page: percentages and what the program printed."""
    text = (BOOK / page).read_text("utf8").replace("～", " to ")
    found = re.findall(r"\d+ to \d+ ?%|\d+\.\d+ ?%", text)
    return sorted(number.replace(" %", "%") for number in found)


def test_both_languages_state_the_same_results():
    assert numbers("use_it.md")
    assert numbers("use_it.md") == numbers("use_it_zh.md")


@pytest.mark.parametrize("name", ["use_it.md", "use_it_zh.md"])
def test_the_five_lines_that_matter_are_highlighted(name):
    page = (BOOK / name).read_text("utf8")
    script, lines = re.search(
        r"literalinclude\} scripts/(\S+).*?:emphasize-lines: ([\d, ]+)", page, re.S
    ).groups()
    code = (SCRIPTS / script).read_text("utf8").splitlines()
    marked = [code[int(n) - 1] for n in lines.split(",")]
    assert len(marked) == 5
    assert all(
        re.search(r"BatchNorm1d|\.eval\(\)|\.train\(\)", line) for line in marked
    )


def test_the_program_is_no_longer_than_promised():
    code = (SCRIPTS / "use_it.py").read_text("utf8").splitlines()
    assert len([line for line in code if line.strip()]) <= 40


def normalised(column):
    values = (column - column.mean()) / column.std(correction=0)
    return [round(v, 6) for v in values.tolist()]


@pytest.mark.parametrize("name", ["one_batch.svg", "one_batch_zh.svg"])
def test_the_picture_is_computed(name):
    drawn = re.findall(r">(−?[\d.]+)</text>", (SCRIPTS / name).read_text("utf8"))
    rows = [
        [float(v.replace("−", "-")) for v in drawn[i : i + 4]] for i in range(0, 20, 4)
    ]
    batch = torch.tensor([row[:2] for row in rows])
    for c in range(2):
        assert normalised(batch[:, c]) == [row[2 + c] for row in rows]
    means, spreads = drawn[20:24], drawn[24:28]
    assert [float(m) for m in means] == [*batch.mean(0).tolist(), 0, 0]
    assert [float(s) for s in spreads] == [*batch.std(0, correction=0).tolist(), 1, 1]


def test_the_example_is_what_the_layer_computes():
    batch = torch.tensor([[1.0, 10], [3, 10], [4, 10], [5, 10], [7, 60]])
    expected = torch.tensor(
        [[-1.5, -0.5], [-0.5, -0.5], [0, -0.5], [0.5, -0.5], [1.5, 2]]
    )
    torch.testing.assert_close(nn.BatchNorm1d(2)(batch), expected, rtol=0, atol=1e-5)


def test_the_rule_for_the_momentum_leaves_one_per_cent():
    for steps in range(5, 51):
        assert (1 - 5 / steps) ** steps < 0.01
    assert 0.9**43 > 0.01 > 0.9**44


def test_the_experiment_runs_small(monkeypatch, capsys):
    small = data.load("digits")
    monkeypatch.setattr(data, "load", lambda: small)
    names = runpy.run_path(str(SCRIPTS / "two_networks.py"))
    names["main"].__globals__["SEEDS"] = [1]
    names["main"]()
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(kind) for line in lines) for kind in names["KINDS"])


def test_the_lines_of_the_symptoms_run(capsys):
    torch.manual_seed(1)
    x = torch.randn(64, 3)
    names = {
        "model": nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)),
        "loader": torch.utils.data.DataLoader(x, batch_size=16),
    }
    names["model"](x)
    page = (BOOK / "symptoms.md").read_text("utf8")
    for _, block in BLOCK.findall(page):
        exec(textwrap.dedent(block), names)
    assert capsys.readouterr().out.startswith("1 True 1 True\n")
    assert not names["model"].training or names["model"][1].num_batches_tracked == 4


def test_each_symptom_has_three_or_four_steps():
    page = (BOOK / "symptoms.md").read_text("utf8")
    for section in page.split("\n## ")[1:]:
        steps = re.findall(r"^(\d)\. \*\*", section, re.M)
        assert steps in (list("123"), list("1234")), section.partition("\n")[0]
        assert re.search(r"\]\(\.\./notebooks/|update_bn|state_dict", section)


# What the FAQ claims and no chapter shows.


def padded(x, length):
    return nn.functional.pad(x, (0, length - x.shape[2]))


@pytest.mark.parametrize(
    ("norm", "safe"),
    [
        (nn.BatchNorm1d(8), False),
        (nn.GroupNorm(2, 8), False),
        (nn.InstanceNorm1d(8), False),
        (lambda x: nn.functional.layer_norm(x, x.shape[1:]), False),
        (lambda x: nn.LayerNorm(8)(x.transpose(1, 2)).transpose(1, 2), True),
    ],
)
def test_padding_is_harmless_only_if_statistics_do_not_cross_positions(norm, safe):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 10) + 3
    alone, beside = norm(x), norm(padded(x, 40))[:, :, :10]
    assert torch.allclose(alone, beside, atol=1e-5) == safe


def test_the_masked_statistics_are_those_without_padding():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 10)
    mask = torch.zeros(4, 40, dtype=torch.bool)
    mask[:, :10] = True
    code = BLOCK.search((BOOK / "faq.md").read_text("utf8"))[2]
    names = {"x": padded(x, 40), "mask": mask}
    exec(code, names)
    torch.testing.assert_close(names["mean"], x.mean((0, 2)))
    torch.testing.assert_close(names["var"], x.var((0, 2), correction=0))


def test_one_channel_per_group_after_a_linear_layer_erases_the_input():
    norm = nn.GroupNorm(4, 4)
    assert norm(torch.randn(8, 4)).abs().max() < 1e-3  # nothing but rounding


def test_the_last_batch_is_divided_as_the_faq_says():
    sizes = [[len(part) for part in torch.arange(n).chunk(4)] for n in (9, 5)]
    assert sizes == [[3, 3, 3], [2, 2, 1]]


def test_a_norm_with_the_statistics_of_its_input_starts_as_the_identity():
    x = torch.randn(32, 5) * 3 + 7
    norm = nn.BatchNorm1d(5)
    with torch.no_grad():
        norm.weight.copy_(x.std(0, correction=0))
        norm.bias.copy_(x.mean(0))
    torch.testing.assert_close(norm(x), x, rtol=1e-3, atol=1e-3)


def test_one_nan_stays_for_ever():
    norm = nn.BatchNorm1d(2)
    norm(torch.tensor([[1.0, 1], [2, float("nan")]]))
    for _ in range(100):
        norm(torch.randn(8, 2))
    assert norm.running_mean.isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("norm", "causal"),
    [
        (nn.BatchNorm1d(4), True),
        (nn.GroupNorm(2, 4), False),
        (nn.InstanceNorm1d(4), False),
        (nn.InstanceNorm1d(4, track_running_stats=True), True),
    ],
)
def test_later_frames_change_earlier_outputs_of_norms_over_time(norm, causal):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 10)
    norm(x)
    later = x.clone()
    later[:, :, 5:] += 3
    with torch.no_grad():
        before, after = (norm.eval()(one)[:, :, :5] for one in (x, later))
    assert torch.equal(before, after) == causal


def test_tracking_switched_off_later_changes_nothing_in_evaluation():
    torch.manual_seed(0)
    norm, x = nn.BatchNorm1d(3), torch.randn(8, 3) + 2
    norm(x)
    before = norm.eval()(x)
    norm.track_running_stats = False
    assert torch.equal(before, norm(x))
    norm.train()(
        x
    )  # as Lightning's freeze leaves it: the batch normalises, nothing moves
    assert norm.num_batches_tracked == 1
    assert norm(x).mean().abs() < 1e-6 < before.mean().abs()


def test_a_channel_with_gamma_zero_is_the_constant_that_the_faq_says():
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).eval()
    with torch.no_grad():
        net[0].weight[3], net[0].bias[3] = 0, 0.7
        x, kept = torch.randn(8, 5), [0, 1, 2, 4]
        hidden = net[1](net[0](x))[:, kept]
        short = hidden @ net[2].weight[:, kept].T + net[2].bias
        constant = net[0].bias[3].relu() * net[2].weight[:, 3]
        assert not torch.allclose(short, net(x))
        torch.testing.assert_close(short + constant, net(x))


@pytest.mark.parametrize("training", [True, False])
def test_the_sum_of_outputs_gives_each_own_derivative_in_evaluation_only(training):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    net(torch.randn(64, 1))
    net.train(training)
    x = torch.randn(16, 1, requires_grad=True)
    (of_sum,) = torch.autograd.grad(net(x).sum(), x, retain_graph=True)
    (own,) = torch.autograd.grad(net(x)[3, 0], x)
    assert torch.allclose(of_sum[3], own[3]) == (not training)


def test_one_scale_for_a_folded_matrix_rounds_small_rows_badly():
    torch.manual_seed(0)
    weight = torch.randn(64, 32) * torch.logspace(-2, 1, 64)[:, None]  # gamma / sigma

    def error(scale):
        rounded = (weight / scale).round() * scale
        return ((rounded - weight).norm(dim=1) / weight.norm(dim=1)).mean()

    whole = error(weight.abs().max() / 127)
    rows = error(weight.abs().amax(1, keepdim=True) / 127)
    assert whole > 10 * rows


def test_dropout_alone_can_be_in_training_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    x = torch.randn(4, 3)
    assert not torch.equal(model(x), model(x))
    assert model[1].num_batches_tracked == 0


@pytest.mark.parametrize(("norm", "arrays"), [(False, 2), (True, 3)])
def test_a_norm_keeps_one_more_array_for_the_backward_pass(norm, arrays):
    layers = [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    if not norm:
        del layers[1]
    kept, x = {}, torch.randn(8, 4, 16, 16)

    def pack(tensor):
        if tensor.numel() == x.numel():
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        nn.Sequential(*layers)(x)
    assert len(kept) == arrays


def test_a_trace_keeps_the_mode_in_which_it_was_made():
    x = torch.randn(16, 3) + 5
    traced = torch.jit.trace(nn.BatchNorm1d(3), x, check_trace=False).eval()
    assert not traced.training
    assert traced(x).mean().abs() < 1e-5  # by the batch: the running mean is near 0


def test_the_list_on_top_of_the_faq_is_made_from_its_headings():
    page = (BOOK / "faq.md").read_text("utf8")
    assert "```{contents}" in page
    assert len(re.findall(r"^### .+\?$", page, re.M)) >= 60


@pytest.mark.parametrize("name", ["welcome.md", "cheat_sheet.md"])
def test_the_core_lines_run(name):
    x, y = torch.rand(64, 784), torch.randint(10, (64,))
    batches = torch.utils.data.TensorDataset(x, y)
    names = {"torch": torch, "nn": nn, "image": x[0]}
    names["model"] = nn.Sequential(nn.Linear(784, 10, bias=False), nn.BatchNorm1d(10))
    names["loader"] = torch.utils.data.DataLoader(batches, batch_size=16)
    (block,) = BLOCK.findall((BOOK / name).read_text("utf8"))
    exec(block[1], names)
    assert names["answer"].shape == (1,)
    assert not names["model"].training


@pytest.mark.nightly
@pytest.mark.skipif(os.name == "nt", reason="a link to the folder of the data")
def test_the_page_prints_what_the_program_prints(monkeypatch, tmp_path, capsys):
    if data.load().name != "MNIST":
        pytest.skip("needs MNIST: BNUTILS_DATA names its folder")
    vision.import_mnist()
    (tmp_path / "data").symlink_to(os.environ["BNUTILS_DATA"], target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(SCRIPTS / "use_it.py"), run_name="__main__")
    page = (BOOK / "use_it.md").read_text("utf8")
    stated = re.findall(r"^epoch \d: ([\d.]+)% right$", page, re.M)
    printed = re.findall(r"^epoch \d: ([\d.]+)% right$", capsys.readouterr().out, re.M)
    assert len(printed) == len(stated) == 3
    for said, was in zip(stated, printed):
        assert abs(float(said) - float(was)) < 0.4  # bits differ between processors

"""The arithmetic of the figure "company" against PyTorch, in a browser, in double precision."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache

import company
import numpy as np
import pytest
import torch
from provenance import NOTEBOOKS
from sklearn.datasets import load_digits
from torch import nn

from bnutils import models
from bnutils.norm import BatchNorm1d

SCRIPTS = ("math", "mlp", "company-data", "company-model")  # what `js` runs beside
CLOSE = {"rtol": 1e-6, "atol": 1e-9}
MODES = ("train", "one", "eval")
RUN = """(given) => {
  const { initial, numbers, words } = bnPlay.models.company;
  const state = { ...initial(), ...given }, found = numbers(state);
  return { ...found, words: words(state, found) };
}"""
PASS = """(given) => {
  const { initial, numbers, words, passWords } = bnPlay.models.company;
  const state = { ...initial(), ...given }, found = numbers(state);
  return { ...found, words: words(state, found), left: passWords(state, found) };
}"""
COMPANIES = [[], [3], [0, 29], [5, 5, 5], [12, 13, 14, 12, 13, 14, 12]]


@cache
def data():
    """The file of the page, read without a browser."""
    text = company.FILE.read_text("utf8")
    return json.loads(text[text.index(".company = ") + 11 :].rstrip().rstrip(";"))


def network(norm, mode):
    """The network of the file, with its numbers in double precision."""
    net = models.mlp((64, 32, 32, 10), norm=norm).double().eval()
    for l, layer in enumerate(data()["layers"], 1):
        linear = getattr(net, f"linear{l}")
        held = {(linear, "weight"): layer["w"], (linear, "bias"): layer["b"]}
        if layer["norm"]:
            one = getattr(net, f"norm{l}")
            keys = ("weight", "bias", "mean", "var")
            names = ("weight", "bias", "running_mean", "running_var")
            held |= {(one, n): layer["norm"][k] for n, k in zip(names, keys)}
            one.train(mode == "train" or (mode == "one" and l == 2))
        for (module, name), values in held.items():
            getattr(module, name).data = torch.tensor(values).double() / 1000
    return net


def images(places):
    return torch.from_numpy(load_digits().data[places]) / 16


def batch(asked, others):
    rows = [data()["asked"][asked], *(data()["others"][i] for i in others)]
    return images([place for place, _, _ in rows])


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, BatchNorm1d])
@pytest.mark.parametrize("others", COMPANIES)
@pytest.mark.parametrize("mode", MODES)
def test_probabilities_are_pytorchs_and_bnutils(js, mode, others, norm):
    for asked in (0, 6, 9):
        got = js(RUN, {"asked": asked, "company": others, "mode": mode})
        with torch.no_grad():
            alone = network(norm, "eval")(batch(asked, [])).softmax(1)[0]
            np.testing.assert_allclose(got["evaluation"], alone, **CLOSE)
            if mode != "eval" and not others:
                assert (got["refused"], got["probabilities"]) == (True, None)
                with pytest.raises(ValueError, match="more than 1 value") as error:
                    network(norm, mode)(batch(asked, []))
                if norm is nn.BatchNorm1d:
                    assert str(error.value) in got["words"]
                continue
            want = network(norm, mode)(batch(asked, others)).softmax(1)[0]
        np.testing.assert_allclose(got["probabilities"], want, **CLOSE)
        assert got["answer"] == want.argmax()
        text = f"read as {want.argmax()} ({100 * want.max():.0f} %)"
        assert text in got["words"]


@pytest.mark.parametrize(("mode", "size"), [("train", 8), ("train", 2), ("one", 5)])
def test_the_count_is_of_200_batches(js, mode, size):
    """The same 200 companies through PyTorch."""
    drawn = js(
        """(count) => {
          const { drawn } = bnPlay.models.company, rng = bnPlay.math.random(2015);
          return Array.from({ length: 200 }, () => drawn(rng, 7).slice(0, count));
        }""",
        size - 1,
    )
    got = js(RUN, {"asked": 4, "company": drawn[0], "mode": mode})["counts"]
    answers = Counter()
    for others in drawn:
        with torch.no_grad():
            scores = network(nn.BatchNorm1d, mode)(batch(4, others))[0]
        answers[scores.argmax().item()] += 1
    assert got == [answers[k] for k in range(10)]
    assert sum(got) == 200
    assert all(0 <= i < 30 for others in drawn for i in others)
    assert len({i for others in drawn for i in others}) == 30 or size == 2


def test_in_evaluation_mode_no_company_changes_anything(js):
    for asked in range(10):
        found = [
            js(RUN, {"asked": asked, "company": c, "mode": "eval"}) for c in COMPANIES
        ]
        assert all(f["probabilities"] == found[0]["evaluation"] for f in found)
        assert all(f["counts"][asked] == 200 for f in found)


@pytest.mark.parametrize("mode", ["train", "one"])
def test_one_norm_in_training_mode_is_enough(js, mode):
    for asked in range(10):
        found = [
            js(RUN, {"asked": asked, "company": c, "mode": mode}) for c in COMPANIES
        ]
        assert len({str(f["probabilities"]) for f in found[1:]}) == len(COMPANIES) - 1
        assert max(found[4]["counts"]) < 200


def test_the_order_of_the_company_means_nothing(js):
    one, two = (
        js(RUN, {"company": c, "mode": "train"}) for c in ([1, 8, 20], [20, 1, 8])
    )
    np.testing.assert_allclose(one["probabilities"], two["probabilities"], rtol=1e-12)


BOTH = [(one, how) for one in MODES for how in (True, False)]


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, BatchNorm1d])
@pytest.mark.parametrize(("mode", "recorded"), BOTH)
def test_a_pass_leaves_behind_what_pytorchs_leaves(js, mode, recorded, norm):
    """Running statistics by the mode alone, and a graph unless under no_grad."""
    for others in COMPANIES[1:]:
        state = {"asked": 6, "company": others, "mode": mode, "recorded": recorded}
        got = js(PASS, state)
        net = network(norm, mode)
        layers = (net.norm1, net.norm2)
        before = [layer.running_mean.clone() for layer in layers]
        with torch.set_grad_enabled(recorded):
            scores = net(batch(6, others))
        want = scores.detach().softmax(1)[0]
        np.testing.assert_allclose(got["probabilities"], want, **CLOSE)
        for k, (layer, old) in enumerate(zip(layers, before)):
            after = got["after"][k]
            np.testing.assert_allclose(after["mean"], layer.running_mean, **CLOSE)
            np.testing.assert_allclose(after["var"], layer.running_var, **CLOSE)
            far = (layer.running_mean - old).abs().max().item()
            assert got["moved"][k] == pytest.approx(far, rel=1e-6)
            assert (far > 0) == (mode == "train" or (mode == "one" and k == 1))
            assert (f"norm{k + 1} by up to {far:.3f}" in got["left"]) == (far > 0)
        assert scores.requires_grad == recorded
        assert ("records no graph" in got["left"]) != scores.requires_grad
        assert ("No running mean moves" in got["left"]) == (mode == "eval")


@pytest.mark.parametrize("mode", MODES)
def test_no_grad_changes_no_number(js, mode):
    for others in COMPANIES:
        on, off = (
            js(PASS, {"company": others, "mode": mode, "recorded": recorded})
            for recorded in (True, False)
        )
        changed = {key for key in on if on[key] != off[key]}
        assert changed == {"left"}


# The data


def test_the_data_was_made_by_this_program():
    made = re.search(r"company\.py \((\w+)\)", company.FILE.read_text("utf8"))[1]
    assert made == company.fingerprint(), "run book/_tools/company.py"


def test_the_digits_are_scikit_learns_and_new_to_the_network(js):
    pixels, labels = load_digits(return_X_y=True)
    rows = data()["asked"] + data()["others"]
    for place, label, letters in rows:
        assert place % 5 == 0  # held out
        assert labels[place] == label
        assert [ord(c) - 65 for c in letters] == pixels[place].tolist()
    assert len({place for place, _, _ in rows}) == 40
    assert [label for _, label, _ in data()["asked"]] == list(range(10))
    assert Counter(label for _, label, _ in data()["others"]) == dict.fromkeys(
        range(10), 3
    )
    read = js("() => bnPlay.models.company.OTHERS.map((one) => one.pixels)")
    assert read == [pixels[place].tolist() for place, _, _ in data()["others"]]


def test_the_rounded_network_reads_digits():
    x, y, held = company.digits()
    with torch.no_grad():
        answers = network(nn.BatchNorm1d, "eval")(x[held].double()).argmax(1)
    assert (answers == y[held]).double().mean() > 0.95


@pytest.mark.nightly
def test_the_network_can_be_trained_again():
    torch.set_num_threads(1)
    x, y, held = company.digits()
    net = company.trained(x[~held], y[~held])
    assert (net(x[held]).argmax(1) == y[held]).float().mean() > 0.95
    assert company.chosen(net, x, y, held).keys() == {"asked", "others"}


# Text and actions


def test_the_chapter_says_what_the_figure_shows(js):
    (path,) = NOTEBOOKS.glob("07_*.ipynb")
    cells = json.loads(path.read_text("utf8"))["cells"]
    (text,) = (
        t for c in cells if "{playground} company" in (t := "".join(c["source"]))
    )
    start, *later = js(
        """() => {
          const { initial, act, numbers } = bnPlay.models.company;
          const kind = (state) => act(state, { type: "fill", to: "kind" });
          const start = initial();
          const states = [start, kind(kind(kind(start))), { ...start, mode: "eval" }];
          states.push({ ...start, asked: 4 }, { ...start, mode: "one" });
          states.push({ ...start, mode: "one", asked: 4 });
          return states.map((s) => ({ ...numbers(s), company: s.company }));
        }"""
    )
    fours, evaluation, four, one, four_in_one = later
    assert start["answer"] == 1 and "the 6 is read as a 1" in text
    assert {data()["others"][i][1] for i in fours["company"]} == {4}
    assert (
        f"a {fours['answer']}, with {100 * max(fours['probabilities']):.0f} %" in text
    )
    assert f"a 6, with {100 * evaluation['probabilities'][6]:.0f} %" in text
    assert f"{start['counts'][6]} of 200 random batches" in text
    assert f"as a 4 in {four['counts'][4]}." in text
    alone = f"{one['counts'][6]} and {four_in_one['counts'][4]}"
    assert f"With `norm2` alone in training mode: {alone}." in text


def test_the_words_count_all_200(js):
    text = js(RUN, {"asked": 3, "mode": "train"})["words"]
    counts = [
        int(n) for n in re.findall(r"(\d+) (?:read it )?as", text.split("of 8,")[1])
    ]
    assert len(counts) == 4 and sum(counts) == 200
    text = js(RUN, {"asked": 3, "mode": "eval", "company": []})["words"]
    assert text.endswith("Of 200 batches of 1, 200 read it as 3.")
    assert "alone in the batch" in text


def test_an_action_gives_a_new_state_and_knows_its_bounds(js):
    got = js(
        """() => {
          const { initial, act } = bnPlay.models.company;
          const first = Object.freeze({ ...initial(), company: Object.freeze([1, 2]) });
          const put = (state, to, at) => act(state, { type: "put", to, at });
          const full = { ...first, company: [1, 2, 3, 4, 5, 6, 7] };
          let refused = 0;
          for (const wrong of [{ type: "put", to: 30 }, { type: "take", at: 2 },
              { type: "ask", to: 10 }, { type: "recorded", to: "off" },
              { type: "mode", to: "test" }, { type: "fill", to: "all" }])
            try { act(first, wrong); } catch { refused += 1; }
          const some = ["random", "random", "kind", "none"].map((to, turn) =>
            act({ ...first, turn }, { type: "fill", to }).company);
          return { behind: put(first, 9).company, at: put(first, 9, 0).company,
            far: put(first, 9, 6).company, last: put(full, 9).company,
            out: act(first, { type: "take", at: 0 }).company, refused, some };
        }"""
    )
    assert got["behind"] == got["far"] == [1, 2, 9]
    assert got["at"] == [9, 2]
    assert got["last"] == [1, 2, 3, 4, 5, 6, 9]
    assert got["out"] == [2]
    assert got["refused"] == 6
    random, again, kind, none = got["some"]
    assert len(random) == len(again) == 7 and random != again
    assert kind == [9, 10, 11, 9, 10, 11, 9] and none == []

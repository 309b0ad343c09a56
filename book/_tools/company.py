"""Train the small network of the figure "company" and write its weights and its digits.

    python book/_tools/company.py

A network 64-32-32-10 with two batch norms learns four fifths of scikit-learn's 8x8 digits. The
figure gets its numbers in thousandths, since rounded they do not depend on the last bits of a
machine, and 40 of the other digits: for each class the one that the network reads correctly with
the least certainty, which the figure asks about, and three more to put beside it. The file names
the fingerprint of this program, so that a test can say when it is old.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bnutils import models  # noqa: E402

FILE = ROOT / "book" / "_static" / "playground" / "company-data.js"
UNIT = 1000  # numbers are stored as whole multiples of 1 / UNIT
OTHERS = 3  # of each class
HEAD = """// Figure "company", its data, made by book/_tools/company.py ({fingerprint}): a network
// trained by PyTorch, in thousandths, and digits of scikit-learn's load_digits that it was not
// trained on: place, label and pixels, a letter for each, A for 0 to Q for 16, row by row.
"""


def fingerprint() -> str:
    """What changes with this program."""
    text = Path(__file__).read_text("utf8")  # lines end alike on every system
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All digits of shape (1797, 64), from 0 to 1, their labels, and which are held out."""
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels / 16, dtype=torch.float32)
    return x, torch.tensor(labels), torch.arange(len(labels)) % 5 == 0


def trained(x: torch.Tensor, y: torch.Tensor) -> nn.Sequential:
    """The network after ten epochs, in evaluation mode."""
    torch.manual_seed(0)
    net = models.mlp((64, 32, 32, 10), norm=nn.BatchNorm1d)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(10):
        for rows in torch.randperm(len(y)).split(32):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


def rounded(values: torch.Tensor) -> list:
    """In thousandths."""
    return (values.detach().double() * UNIT).round().long().tolist()


def layers(net: nn.Sequential) -> list[dict]:
    """The numbers of the network, as bn.mlp holds them."""
    made = []
    for l in (1, 2, 3):
        linear, norm = getattr(net, f"linear{l}"), getattr(net, f"norm{l}", None)
        one = {"inputs": linear.in_features, "outputs": linear.out_features}
        one |= {"w": rounded(linear.weight), "b": rounded(linear.bias), "norm": None}
        if norm is not None:
            names = ("weight", "bias", "running_mean", "running_var")
            keys = ("weight", "bias", "mean", "var")
            held = [rounded(getattr(norm, name)) for name in names]
            one["norm"] = dict(zip(keys, held))
        made.append(one)
    return made


def chosen(net: nn.Sequential, x, y, held) -> dict[str, list[int]]:
    """The places of the digits: those asked about, and the others, by class."""
    with torch.no_grad():
        probability = net(x).softmax(1)
    known = held & (probability.argmax(1) == y)
    asked, others = [], []
    for label in range(10):
        mine = (known & (y == label)).nonzero()[:, 0]
        least = mine[probability[mine, label].argmin()].item()
        asked.append(least)
        others += [place for place in mine.tolist() if place != least][:OTHERS]
    return {"asked": asked, "others": others}


def script(net: nn.Sequential, x, y, held) -> str:
    """The text of the file."""
    letters = [[chr(65 + round(16 * v)) for v in row] for row in x.tolist()]
    lines = [HEAD.format(fingerprint=fingerprint()) + "(window.bnPlay = "]
    lines[0] += "window.bnPlay || {}).company = {"
    lines.append('"layers": [')
    for one in layers(net):
        rows = one.pop("w")
        lines.append(json.dumps(one)[:-1].replace(", ", ",") + ',"w": [')
        lines += [json.dumps(row).replace(" ", "") + "," for row in rows]
        lines[-1] = lines[-1][:-1] + "]},"
    lines[-1] = lines[-1][:-1] + "],"
    for name, places in chosen(net, x, y, held).items():
        lines.append(f'"{name}": [')
        lines += [f'[{p},{y[p]},"{"".join(letters[p])}"],' for p in places]
        lines[-1] = lines[-1][:-1] + "],"
    lines[-1] = lines[-1][:-1] + "};"
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    x, y, held = digits()
    net = trained(x[~held], y[~held])
    right = (net(x[held]).argmax(1) == y[held]).float().mean().item()
    print(f"{right:.1%} of the held-out digits right")
    FILE.write_text(script(net, x, y, held), "utf8")

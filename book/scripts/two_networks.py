"""Two networks, one extra line per layer: does the learning rate still matter?

    python book/scripts/two_networks.py

prints the first table of the page "Use it in ten minutes". Three kinds of the same network,
784-128-128-10, learn from 100 batches of 128 digits by plain gradient descent, at two learning
rates and from five seeds. The second kind is the plain network with the initial weights that
suit ReLU best, so that batch norm is not compared with a weak opponent.
"""

from __future__ import annotations

import torch
from torch import nn

from bnutils import data

KINDS = ("plain", "plain, better initial weights", "with batch norm")
RATES = (0.1, 1.0)
SEEDS = range(1, 6)


def network(kind: str) -> nn.Sequential:
    """Two hidden layers of 128 units, and an output for each digit."""
    layers = []
    for inputs in (784, 128):
        linear = nn.Linear(inputs, 128, bias=kind != "with batch norm")
        layers.append(linear)
        if kind == "plain, better initial weights":
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
        if kind == "with batch norm":
            layers.append(nn.BatchNorm1d(128))  # the one extra line
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(128, 10))


def score(kind: str, rate: float, seed: int, digits: data.Dataset) -> float:
    """Accuracy on the test images after 100 steps, in per cent."""
    torch.manual_seed(seed)
    model = network(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    order = torch.randperm(len(digits.train)).repeat(
        12
    )  # enough for the offline digits
    for rows in order[: 100 * 128].split(128):
        optimizer.zero_grad()
        output = model(digits.train.x[rows])
        nn.functional.cross_entropy(output, digits.train.y[rows]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        right = model(digits.test.x).argmax(1) == digits.test.y
    return 100 * right.float().mean().item()


def main() -> None:
    """Print a line for each kind and rate: lowest and highest of the five seeds."""
    digits = data.load()
    print(digits)
    for kind in KINDS:
        for rate in RATES:
            scores = [score(kind, rate, seed, digits) for seed in SEEDS]
            print(
                f"{kind:30} {rate:4} {min(scores):5.1f} to {max(scores):.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

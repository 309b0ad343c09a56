"""Where batch norm goes: five orders of the same layers, five seeds each.

    python book/scripts/where_it_goes.py

prints the table of the page "Use it in ten minutes": one epoch of MNIST, batches of 128, Adam
with a rate of 0.001, accuracy on the test images in per cent.
"""

from __future__ import annotations

import torch
from torch import nn

from bnutils import data

ORDERS = {
    "without batch norm": "L R",
    "before the activation": "L B R",
    "after the activation": "L R B",
    "dropout after batch norm": "L B R D",
    "dropout before batch norm": "L D B R",
}


SEEDS = range(1, 6)


def block(order: str, inputs: int, outputs: int) -> list[nn.Module]:
    """The layers that the letters name: linear, batch norm, ReLU, dropout."""
    makers = {
        # The bias is left out only where batch norm follows directly.
        "L": lambda: nn.Linear(inputs, outputs, bias="L B" not in order),
        "B": lambda: nn.BatchNorm1d(outputs),
        "R": nn.ReLU,
        "D": lambda: nn.Dropout(0.5),
    }
    return [makers[letter]() for letter in order.split()]


def network(order: str) -> nn.Sequential:
    """The article's network, 784-512-256-10, with its layers in that order."""
    return nn.Sequential(
        *block(order, 784, 512), *block(order, 512, 256), nn.Linear(256, 10)
    )


def train(order: str, seed: int, images, labels) -> nn.Sequential:
    """One epoch; the seed fixes the weights, the dropout and the order of the images."""
    torch.manual_seed(seed)
    model = network(order)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    for rows in torch.randperm(len(images)).split(128):
        if len(rows) == 128:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    """Print the table."""
    digits = data.load()
    print(digits)
    for name, order in ORDERS.items():
        scores = []
        for seed in SEEDS:
            model = train(order, seed, digits.train.x, digits.train.y)
            with torch.no_grad():
                right = model(digits.test.x).argmax(1) == digits.test.y
            scores.append(100 * right.float().mean().item())
        mean = sum(scores) / len(scores)
        print(
            f"{name:26} {min(scores):.1f} to {max(scores):.1f}, mean {mean:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

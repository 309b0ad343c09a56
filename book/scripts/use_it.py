"""Train a classifier of handwritten digits; measure it, save it, load it, use it."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import MNIST


def load(train):
    digits = MNIST("data", train=train, download=True)
    images = digits.data.flatten(1) / 255  # 28 x 28 pixels become 784 numbers, 0 to 1
    return TensorDataset(images, digits.targets)


def make_model():
    return nn.Sequential(
        nn.Linear(784, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(),
        nn.Linear(512, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU(),
        nn.Linear(256, 10),
    )  # fmt: skip


def accuracy(model, loader):
    model.eval()  # evaluation mode: each image is judged alone
    with torch.no_grad():  # no gradients are needed here
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    return right / len(loader.dataset)


torch.manual_seed(1)
train_loader = DataLoader(load(True), batch_size=128, shuffle=True, drop_last=True)
test_loader = DataLoader(load(False), batch_size=1000)
model = make_model()
optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

for epoch in range(3):
    model.train()  # training mode, again in every epoch
    for images, labels in train_loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: {accuracy(model, test_loader):.2%} right")

torch.save(model.state_dict(), "digits.pt")  # weights and running statistics

loaded = make_model()
loaded.load_state_dict(torch.load("digits.pt", weights_only=True))
loaded.eval()
image, label = test_loader.dataset[0]
with torch.no_grad():
    print("says", loaded(image[None]).argmax(1).item(), "and it is", label.item())

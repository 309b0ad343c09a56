"""训练一个手写数字分类器：评估、保存、读取、使用。"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import MNIST


def load(train):
    digits = MNIST("data", train=train, download=True)
    images = digits.data.flatten(1) / 255  # 28 x 28 个像素变成 784 个 0 到 1 的数
    return TensorDataset(images, digits.targets)


def make_model():
    return nn.Sequential(
        nn.Linear(784, 512, bias=False), nn.BatchNorm1d(512), nn.ReLU(),
        nn.Linear(512, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU(),
        nn.Linear(256, 10),
    )  # fmt: skip


def accuracy(model, loader):
    model.eval()  # 评估模式：每张图片单独判断
    with torch.no_grad():  # 这里不需要梯度
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    return right / len(loader.dataset)


torch.manual_seed(1)
train_loader = DataLoader(load(True), batch_size=128, shuffle=True, drop_last=True)
test_loader = DataLoader(load(False), batch_size=1000)
model = make_model()
optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

for epoch in range(3):
    model.train()  # 训练模式，每一轮都要重新设置
    for images, labels in train_loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    print(f"第 {epoch + 1} 轮：准确率 {accuracy(model, test_loader):.2%}")

torch.save(model.state_dict(), "digits.pt")  # 权重和滑动统计量

loaded = make_model()
loaded.load_state_dict(torch.load("digits.pt", weights_only=True))
loaded.eval()
image, label = test_loader.dataset[0]
with torch.no_grad():
    print(f"预测 {loaded(image[None]).argmax(1).item()}，实际 {label.item()}")

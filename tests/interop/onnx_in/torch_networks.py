"""Binary networks as PyTorch projects write them, for ONNX files to be made of. Needs torch."""

import torch
from torch import nn
from torch.nn import functional as F


class XnorConv(nn.Conv2d):
    """Centred and clamped weights, alpha from their magnitudes (Rastegari et al. 2016)."""

    def forward(self, x):
        w = (self.weight - self.weight.mean(1, keepdim=True)).clamp(-1, 1)
        alpha = w.abs().mean((1, 2, 3), keepdim=True)
        return F.conv2d(torch.sign(x), torch.sign(w) * alpha, self.bias, self.stride, self.padding)


class ScaledConv(nn.Conv2d):
    """K, the mean of abs(x) over each window, and alpha (Rastegari et al. 2016, eq. 11)."""

    def forward(self, x):
        taps = torch.ones(1, 1, *self.kernel_size) / (self.kernel_size[0] * self.kernel_size[1])
        k = F.conv2d(x.abs().mean(1, keepdim=True), taps, stride=self.stride, padding=self.padding)
        alpha = self.weight.abs().mean((1, 2, 3)).view(1, -1, 1, 1)
        return F.conv2d(torch.sign(x), self.weight.sign(), None, self.stride, self.padding) * k * alpha


class Polynomial(nn.Module):
    """Sign whose gradient is that of a piecewise polynomial: sign - p + p (Liu et al. 2018)."""

    def forward(self, x):
        below, negative, above = ((x < at).type(torch.float32) for at in (-1, 0, 1))
        p = -below + (x * x + 2 * x) * (1 - below)
        p = p * negative + (-x * x + 2 * x) * (1 - negative)
        p = p * above + (1 - above)
        return torch.sign(x).detach() - p.detach() + p


class ClippedConv(nn.Conv2d):
    """Weights alpha sign(w) - clip(w) + clip(w), which rounds (Liu et al. 2020)."""

    def forward(self, x):
        alpha = self.weight.abs().mean((1, 2, 3), keepdim=True).detach()
        clipped = torch.clamp(self.weight, -1.0, 1.0)
        w = (alpha * torch.sign(self.weight)).detach() - clipped.detach() + clipped
        return F.conv2d(x, w, stride=self.stride, padding=self.padding)


class Move(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, channels, 1, 1) * 0.1)

    def forward(self, x):
        return x + self.bias.expand_as(x)


class ReActBlock(nn.Module):
    """A 3x3 and two 1x1 convolutions with shortcuts, joined to twice the channels (Liu et al. 2020)."""

    def __init__(self, c, stride):
        super().__init__()
        self.sign = nn.Sequential(Move(c), Polynomial())
        self.conv = nn.Sequential(ClippedConv(c, c, 3, stride, 1), nn.BatchNorm2d(c))
        self.short = nn.AvgPool2d(2) if stride == 2 else nn.Identity()
        self.act = nn.Sequential(Move(c), nn.PReLU(c), Move(c))
        self.left, self.right = (nn.Sequential(ClippedConv(c, c, 1), nn.BatchNorm2d(c)) for _ in range(2))
        self.last = nn.Sequential(Move(2 * c), nn.PReLU(2 * c), Move(2 * c))

    def forward(self, x):
        x = self.act(self.conv(self.sign(x)) + self.short(x))
        signs = self.sign(x)
        return self.last(torch.cat([self.left(signs) + x, self.right(signs) + x], dim=1))


class PowerConv(nn.Conv2d):
    """Balanced weights with a power of two as their scale (Qin et al. 2020)."""

    def forward(self, x):
        rows = self.weight.flatten(1)
        rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
        scale = torch.pow(2.0, torch.log2(rows.abs().mean(1)).round()).view(-1, 1, 1, 1)
        return F.conv2d(torch.sign(x), torch.sign(rows).view_as(self.weight) * scale, None, self.stride, self.padding)


class FewBitsConv(nn.Conv2d):
    """Inputs of 2 bits in [0, 1], binary weights with one scale (Zhou et al. 2016)."""

    def forward(self, x):
        q = torch.round(torch.clamp(x, 0, 1) * 3) / 3
        return F.conv2d(q, torch.sign(self.weight) * self.weight.abs().mean(), None, self.stride, self.padding)


class Twice(nn.Conv2d):
    """sign(sign(x) + 0.1), whose sign of 0 is 1."""

    def forward(self, x):
        signs = [value.sign().add(0.1).sign() for value in (x, self.weight)]
        return F.conv2d(*signs, self.bias, self.stride, self.padding)


class SignLinear(nn.Linear):
    def forward(self, x):
        return F.linear(torch.where(x >= 0, 1.0, -1.0), torch.where(self.weight >= 0, 1.0, -1.0), self.bias)


def stem(stride=1):
    return nn.Conv2d(3, 16, 3, stride, 1, bias=False), nn.BatchNorm2d(16)


def head(channels):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)


NETWORKS = {
    "XNOR-Net": lambda: nn.Sequential(
        *stem(), nn.ReLU(), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.BatchNorm2d(16), XnorConv(16, 32, 3, 1, 1),
        nn.ReLU(), nn.BatchNorm2d(32), XnorConv(32, 32, 1), nn.ReLU(), nn.AvgPool2d(2), *head(32),
    ),
    "XNOR-Net with K": lambda: nn.Sequential(
        *stem(), ScaledConv(16, 16, 3, 1, 1), nn.BatchNorm2d(16), ScaledConv(16, 16, 3, 2, 1), *head(16)
    ),
    "ReActNet": lambda: nn.Sequential(*stem(2), nn.ReLU(), ReActBlock(16, 1), ReActBlock(32, 2), *head(64)),
    "IR-Net": lambda: nn.Sequential(
        *stem(), nn.Hardtanh(), PowerConv(16, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.Hardtanh(),
        PowerConv(16, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.Hardtanh(), *head(24),
    ),
    "DoReFa-Net": lambda: nn.Sequential(
        *stem(), FewBitsConv(16, 16, 3, 1, 1), nn.BatchNorm2d(16), FewBitsConv(16, 16, 3, 1, 1), *head(16)
    ),
    "sign(sign(x) + 0.1)": lambda: nn.Sequential(
        *stem(), nn.LeakyReLU(0.1), Twice(16, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), Twice(16, 16, 3, 1, 1),
        nn.BatchNorm2d(16), *head(16),
    ),
    "fully connected": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(768, 64), nn.BatchNorm1d(64), nn.Hardtanh(), SignLinear(64, 48), nn.BatchNorm1d(48),
        nn.Dropout(), SignLinear(48, 10), nn.BatchNorm1d(10),
    ),
}  # fmt: skip


def trained(name):
    """A network in inference mode whose BatchNorm has the statistics of images."""
    torch.manual_seed(1)
    module = NETWORKS[name]().train()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.bias.data.normal_(0, 0.3)
            part.weight.data.uniform_(0.5, 1.5)
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(32, 3, 16, 16))
    return module.eval()


def exported(module, path, shape=(3, 16, 16)):
    """An ONNX file of it that takes any number of images."""
    x = torch.zeros(2, *shape)
    names = {"input_names": ["x"], "dynamic_axes": {"x": {0: "N"}}}
    torch.onnx.export(module, (x,), str(path), dynamo=False, opset_version=17, **names)
    return path

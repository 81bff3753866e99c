"""Networks as PyTorch's users write them, each with its own way of taking signs; made up for the tests."""

import pytest

torch = pytest.importorskip("torch", reason="needs the extra torch")
F, nn = torch.nn.functional, torch.nn


class SignAndMean(torch.autograd.Function):
    """Signs by a Function, which gives K's mean by the way."""

    @staticmethod
    def forward(ctx, x):
        return x.sign(), x.abs().mean(1, keepdim=True)


class BlockInPlace(nn.Module):
    """BatchNorm, signs, convolution; the weights are made binary in place, by `InPlace.binarise`."""

    def __init__(self, inputs, outputs, kernel, padding, dropout=0.0):
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs, eps=1e-4)
        self.dropout = nn.Dropout(dropout)
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=padding)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x, _ = SignAndMean.apply(self.bn(x))
        return self.relu(self.conv(self.dropout(x)))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.xnor = nn.Sequential(
            nn.Conv2d(3, 12, 5, padding=2), nn.BatchNorm2d(12, eps=1e-4), nn.ReLU(inplace=True),
            BlockInPlace(12, 10, 1, 0), nn.MaxPool2d(3, 2, 1),
            BlockInPlace(10, 12, 5, 2, dropout=0.5), nn.AvgPool2d(3, 2, 1),
            BlockInPlace(12, 12, 3, 1), nn.Conv2d(12, 10, 1), nn.AvgPool2d(8, 1),
        )  # fmt: skip

    def forward(self, x):
        return self.xnor(x).view(x.size(0), 10)

    def binarise(self):
        for module in self.modules():
            if isinstance(module, BlockInPlace):
                weight = module.conv.weight.data
                weight -= weight.mean(1, keepdim=True)
                weight.clamp_(-1, 1)
                module.conv.weight.data = weight.sign() * weight.abs().mean((1, 2, 3), keepdim=True)


def taken(layer, x, first):
    """Signs of the input in place, unless it is the image; latent weights kept beside the binary ones."""
    if not first:
        x.data = x.data.sign()
    if not hasattr(layer.weight, "org"):
        layer.weight.org = layer.weight.data.clone()
    layer.weight.data = layer.weight.org.sign()
    return x


class ConvWithOrg(nn.Conv2d):
    def forward(self, x):
        x = taken(self, x, x.size(1) == 3)
        y = F.conv2d(x, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        if self.bias is not None:
            y += self.bias.view(1, -1, 1, 1).expand_as(y)
        return y


class LinearWithOrg(nn.Linear):
    def forward(self, x):
        return F.linear(taken(self, x, False), self.weight) + self.bias


class WithOrg(nn.Module):
    """Binary weights as another tensor of the parameter, and a softmax at the end."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            ConvWithOrg(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Hardtanh(inplace=True),
            ConvWithOrg(12, 12, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(12), nn.Hardtanh(inplace=True),
            ConvWithOrg(12, 16, 3, padding=1, bias=False), nn.MaxPool2d(4), nn.BatchNorm2d(16), nn.Hardtanh(),
        )  # fmt: skip
        self.classifier = nn.Sequential(LinearWithOrg(256, 10), nn.BatchNorm1d(10, affine=False), nn.LogSoftmax(1))

    def forward(self, x):
        return self.classifier(self.features(x).view(-1, 256))


class Polynomial(nn.Module):
    """Signs whose gradient is that of a piecewise polynomial, by adding and taking it away."""

    def forward(self, x):
        below, left, right = (x < edge for edge in (-1, 0, 1))
        smooth = torch.where(left, x * (2 + x), x * (2 - x))
        smooth = -1 * below.float() + smooth * (1 - below.float())
        smooth = smooth * right.float() + (1 - right.float())
        return torch.sign(x).detach() - smooth.detach() + smooth


class ScaledConv(nn.Module):
    """Weights alpha sign(W), with the gradient of W clipped, by adding and taking it away."""

    def __init__(self, inputs, outputs, kernel=3, stride=1, padding=1):
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) * 0.02)

    def forward(self, x):
        alpha = self.weight.abs().mean((1, 2, 3), keepdim=True).detach()
        soft = self.weight.clamp(-1, 1)
        hard = alpha * self.weight.sign() - soft.detach() + soft
        return F.conv2d(x, hard, stride=self.stride, padding=self.padding)


class Move(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(1, channels, 1, 1) * 0.1)

    def forward(self, x):
        return x + self.bias.expand_as(x)


class BlockWithShortcut(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.sign, self.conv, self.bn = (
            Polynomial(),
            ScaledConv(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
        )
        real = nn.AvgPool2d(2, stride), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(*real) if stride > 1 else None

    def forward(self, x):
        y = self.bn(self.conv(self.sign(x)))
        y += x if self.downsample is None else self.downsample(x)
        return y


class Shortcuts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 12, 7, 2, 3, bias=False), nn.BatchNorm2d(12)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layers = nn.Sequential(BlockWithShortcut(12, 12), BlockWithShortcut(12, 24, 2), BlockWithShortcut(24, 24))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(24, 10)

    def forward(self, x):
        x = self.layers(self.maxpool(self.bn1(self.conv1(x))))
        return self.fc(self.avgpool(x).view(x.size(0), -1))


class BlockWithMoves(nn.Module):
    """Shifted signs and PReLUs; channels double by two convolutions side by side."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.stride, self.double = stride, outputs == 2 * inputs
        self.sign, self.pool = Polynomial(), nn.AvgPool2d(2)
        self.move1, self.conv, self.bn1 = (
            Move(inputs),
            ScaledConv(inputs, inputs, stride=stride),
            nn.BatchNorm2d(inputs),
        )
        self.act = nn.Sequential(Move(inputs), nn.PReLU(inputs), Move(inputs))
        self.move2 = Move(inputs)
        self.points = nn.ModuleList(ScaledConv(inputs, inputs, 1, padding=0) for _ in range(1 + self.double))
        self.norms = nn.ModuleList(nn.BatchNorm2d(inputs) for _ in range(1 + self.double))

    def forward(self, x):
        y = self.bn1(self.conv(self.sign(self.move1(x))))
        y = self.act(y + (self.pool(x) if self.stride == 2 else x))
        bits = self.sign(self.move2(y))
        parts = [norm(point(bits)) + y for point, norm in zip(self.points, self.norms, strict=True)]
        return torch.cat(parts, dim=1) if self.double else parts[0]


class Moves(nn.Module):
    def __init__(self):
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        self.feature = nn.ModuleList(
            [stem, BlockWithMoves(8, 16), BlockWithMoves(16, 16, 2), BlockWithMoves(16, 32, 2)]
        )
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        for block in self.feature:
            x = block(x)
        return self.fc(x.mean((2, 3)))


class StandardConv(nn.Conv2d):
    """Weights standardised before their signs are taken, and scaled by powers of two."""

    def forward(self, x):
        rows = self.weight.flatten(1)
        rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, keepdim=True)
        scale = 2 ** rows.abs().mean(1, keepdim=True).log2().round()
        weight = (rows.sign() * scale).view_as(self.weight)
        return F.conv2d(x.sign(), weight, self.bias, self.stride, self.padding)


class ConvWithK(nn.Conv2d):
    """alpha and K after the convolution; alpha is computed, or learned."""

    def __init__(self, *sizes, learned=False, **more):
        super().__init__(*sizes, **more, bias=False)
        self.scale = nn.Parameter(torch.rand(self.out_channels, 1, 1) + 0.5) if learned else None

    def forward(self, x):
        box = torch.full((1, 1, *self.kernel_size), 1 / (self.kernel_size[0] * self.kernel_size[1]))
        k = F.conv2d(x.abs().mean(1, keepdim=True), box, stride=self.stride, padding=self.padding)
        alpha = self.weight.abs().mean((1, 2, 3)).view(-1, 1, 1) if self.scale is None else self.scale
        signs = torch.where(x > 0, torch.ones_like(x), -torch.ones_like(x))
        weight = torch.where(self.weight >= 0, 1.0, -1.0)
        return F.conv2d(signs, weight, None, self.stride, self.padding) * alpha * k


class Mixed(nn.Module):
    """Calls of functions, K, and a shortcut that pads channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.c1, self.bn1 = StandardConv(12, 12, 3, 1, 1), nn.BatchNorm2d(12)
        self.c2, self.bn2 = ConvWithK(12, 12, 3, 2, 1), nn.BatchNorm2d(12)
        self.c3, self.bn3 = ConvWithK(12, 24, 3, 1, 1, learned=True), nn.BatchNorm2d(24)
        self.fc = nn.Linear(24, 10)

    def forward(self, x):
        x = F.leaky_relu(self.bn0(self.stem(x)), 0.1)
        x = F.hardtanh(self.bn1(self.c1(x)) + x)
        y = F.relu6(self.bn2(self.c2(x)))
        y = self.bn3(self.c3(y)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 8))
        y = F.max_pool2d(y, 3, 2, ceil_mode=True)
        return self.fc(F.dropout(F.adaptive_avg_pool2d(y, 1).flatten(1), 0.5, self.training))


STYLES = {"in place": InPlace, "org": WithOrg, "shortcuts": Shortcuts, "moves": Moves, "mixed": Mixed}


def lived_in(network, shape=(3, 32, 32), seed=0):
    """Statistics of random images, and scales as after training."""
    torch.manual_seed(seed)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 0.5
        if norm.affine:
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0, 0.2)
    with torch.no_grad():
        for _ in range(4):
            network.train()(torch.randn(16, *shape))
    return network.eval()


def made(name):
    """A network of a style, as it is in inference."""
    torch.manual_seed(1)
    network = lived_in(STYLES[name]())
    if name == "in place":
        network.binarise()
    return network

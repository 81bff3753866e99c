"""Networks in the styles in which PyTorch's users write them, each in its own way of taking signs; made up for the tests."""

import pytest

torch = pytest.importorskip("torch", reason="needs the extra torch")
F, nn = torch.nn.functional, torch.nn


# --- XNOR-Net PyTorch ports: BinActive as a Function, weights binarised in place from outside
class BinActive(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input):
        ctx.save_for_backward(input)
        mean = torch.mean(input.abs(), 1, keepdim=True)
        return input.sign(), mean
    @staticmethod
    def backward(ctx, g, gm):
        (input,) = ctx.saved_tensors
        g = g.clone(); g[input.ge(1)] = 0; g[input.le(-1)] = 0
        return g

class BinConv2d(nn.Module):
    def __init__(self, i, o, k=-1, stride=-1, padding=-1, dropout=0, linear=False):
        super().__init__()
        self.linear = linear
        self.bn = nn.BatchNorm1d(i) if linear else nn.BatchNorm2d(i, eps=1e-4, momentum=0.1, affine=True)
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.conv = nn.Linear(i, o) if linear else nn.Conv2d(i, o, k, stride, padding)
        self.relu = nn.ReLU(inplace=True)
    def forward(self, x):
        x = self.bn(x)
        x, mean = BinActive.apply(x)
        if self.dropout is not None: x = self.dropout(x)
        return self.relu(self.conv(x))

class Nin(nn.Module):
    def __init__(self):
        super().__init__()
        self.xnor = nn.Sequential(
            nn.Conv2d(3, 24, 5, 1, 2), nn.BatchNorm2d(24, eps=1e-4), nn.ReLU(inplace=True),
            BinConv2d(24, 20, 1, 1, 0), nn.MaxPool2d(3, 2, 1),
            BinConv2d(20, 24, 5, 1, 2, dropout=0.5), nn.AvgPool2d(3, 2, 1),
            BinConv2d(24, 24, 3, 1, 1), nn.BatchNorm2d(24, eps=1e-4), nn.Conv2d(24, 10, 1), nn.ReLU(inplace=True), nn.AvgPool2d(8, 1, 0))
    def forward(self, x):
        x = self.xnor(x)
        return x.view(x.size(0), 10)
    def binarise(self):   # what BinOp does before a forward pass
        for m in self.modules():
            if isinstance(m, BinConv2d):
                w = m.conv.weight.data
                w -= w.mean(1, keepdim=True); w.clamp_(-1, 1)
                n = w[0].nelement()
                a = w.abs().flatten(1).sum(1).div(n).reshape(-1, *(1,)*(w.dim()-1))
                m.conv.weight.data = w.sign() * a

# --- BinaryNet.pytorch
def Binarize(t): return t.sign()
class BinarizeLinear(nn.Linear):
    def forward(self, input):
        if input.size(1) != 784: input.data = Binarize(input.data)
        if not hasattr(self.weight, 'org'): self.weight.org = self.weight.data.clone()
        self.weight.data = Binarize(self.weight.org)
        out = F.linear(input, self.weight)
        if self.bias is not None:
            self.bias.org = self.bias.data.clone()
            out += self.bias.view(1, -1).expand_as(out)
        return out
class BinarizeConv2d(nn.Conv2d):
    def forward(self, input):
        if input.size(1) != 3: input.data = Binarize(input.data)
        if not hasattr(self.weight, 'org'): self.weight.org = self.weight.data.clone()
        self.weight.data = Binarize(self.weight.org)
        out = F.conv2d(input, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        if self.bias is not None:
            self.bias.org = self.bias.data.clone()
            out += self.bias.view(1, -1, 1, 1).expand_as(out)
        return out
class BinaryNet(nn.Module):
    def __init__(self, infl=1):
        super().__init__()
        self.features = nn.Sequential(
            BinarizeConv2d(3, 16, 3, 1, 1, bias=True), nn.BatchNorm2d(16), nn.Hardtanh(inplace=True),
            BinarizeConv2d(16, 16, 3, padding=1, bias=True), nn.MaxPool2d(2, 2), nn.BatchNorm2d(16), nn.Hardtanh(inplace=True),
            BinarizeConv2d(16, 32, 3, padding=1, bias=False), nn.MaxPool2d(2, 2), nn.BatchNorm2d(32), nn.Hardtanh(inplace=True))
        self.classifier = nn.Sequential(BinarizeLinear(32*8*8, 64, bias=True), nn.BatchNorm1d(64), nn.Hardtanh(inplace=True),
            BinarizeLinear(64, 10, bias=True), nn.BatchNorm1d(10, affine=False))
    def forward(self, x):
        x = self.features(x)
        x = x.view(-1, 32*8*8)
        return self.classifier(x)

# --- Bi-Real net, ReActNet
class BinaryActivation(nn.Module):
    def forward(self, x):
        out_forward = torch.sign(x)
        mask1 = x < -1; mask2 = x < 0; mask3 = x < 1
        out1 = (-1) * mask1.type(torch.float32) + (x*x + 2*x) * (1-mask1.type(torch.float32))
        out2 = out1 * mask2.type(torch.float32) + (-x*x + 2*x) * (1-mask2.type(torch.float32))
        out3 = out2 * mask3.type(torch.float32) + 1 * (1- mask3.type(torch.float32))
        return out_forward.detach() - out3.detach() + out3
class HardBinaryConv(nn.Module):
    def __init__(self, i, o, k=3, stride=1, padding=1):
        super().__init__()
        self.stride, self.padding = stride, padding
        self.shape = (o, i, k, k)
        self.weights = nn.Parameter(torch.rand((o*i*k*k, 1)) * 0.001 - 0.0005)
    def forward(self, x):
        real_weights = self.weights.view(self.shape)
        s = torch.mean(torch.mean(torch.mean(abs(real_weights), dim=3, keepdim=True), dim=2, keepdim=True), dim=1, keepdim=True).detach()
        bnow = s * torch.sign(real_weights)
        clipped = torch.clamp(real_weights, -1.0, 1.0)
        bw = bnow.detach() - clipped.detach() + clipped
        return F.conv2d(x, bw, stride=self.stride, padding=self.padding)
class HardBinaryConv4(HardBinaryConv):
    def __init__(self, i, o, k=3, stride=1, padding=1):
        super().__init__(i, o, k, stride, padding)
        self.weight = nn.Parameter(torch.rand(self.shape) * 0.001 - 0.0005)
        del self.weights
    def forward(self, x):
        w = self.weight
        s = torch.mean(abs(w), dim=(1,2,3), keepdim=True).detach()
        bnow = s * torch.sign(w); clipped = torch.clamp(w, -1.0, 1.0)
        return F.conv2d(x, bnow.detach() - clipped.detach() + clipped, stride=self.stride, padding=self.padding)
class LearnableBias(nn.Module):
    def __init__(self, c):
        super().__init__(); self.bias = nn.Parameter(torch.zeros(1, c, 1, 1))
    def forward(self, x): return x + self.bias.expand_as(x)
class BiRealBlock(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.binary_activation = BinaryActivation(); self.binary_conv = HardBinaryConv4(i, o, stride=stride)
        self.bn1 = nn.BatchNorm2d(o)
        self.downsample = None if stride == 1 and i == o else nn.Sequential(nn.AvgPool2d(2, stride), nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o))
    def forward(self, x):
        residual = x
        out = self.bn1(self.binary_conv(self.binary_activation(x)))
        if self.downsample is not None: residual = self.downsample(x)
        out += residual
        return out
class BiReal(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False); self.bn1 = nn.BatchNorm2d(16); self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BiRealBlock(16, 16), BiRealBlock(16, 16)); self.layer2 = nn.Sequential(BiRealBlock(16, 32, 2), BiRealBlock(32, 32))
        self.avgpool = nn.AdaptiveAvgPool2d(1); self.fc = nn.Linear(32, 10)
    def forward(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(x))
        x = self.avgpool(x)
        return self.fc(x.view(x.size(0), -1))
class ReActBlock(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.stride, self.i, self.o = stride, i, o
        self.move11 = LearnableBias(i); self.binary_3x3 = HardBinaryConv4(i, i, 3, stride, 1); self.bn1 = nn.BatchNorm2d(i)
        self.move12 = LearnableBias(i); self.prelu1 = nn.PReLU(i); self.move13 = LearnableBias(i)
        self.move21 = LearnableBias(i)
        if i == o: self.binary_pw = HardBinaryConv4(i, o, 1, 1, 0); self.bn2 = nn.BatchNorm2d(o)
        else:
            self.pw1 = HardBinaryConv4(i, i, 1, 1, 0); self.pw2 = HardBinaryConv4(i, i, 1, 1, 0); self.bn21 = nn.BatchNorm2d(i); self.bn22 = nn.BatchNorm2d(i)
        self.move22 = LearnableBias(o); self.prelu2 = nn.PReLU(o); self.move23 = LearnableBias(o)
        self.binary_activation = BinaryActivation()
        if stride != 1: self.pooling = nn.AvgPool2d(2, 2)
    def forward(self, x):
        out1 = self.bn1(self.binary_3x3(self.binary_activation(self.move11(x))))
        if self.stride == 2: x = self.pooling(x)
        out1 = x + out1
        out1 = self.move13(self.prelu1(self.move12(out1)))
        out2 = self.binary_activation(self.move21(out1))
        if self.i == self.o:
            out2 = self.bn2(self.binary_pw(out2)); out2 += out1
        else:
            a = self.bn21(self.pw1(out2)); b = self.bn22(self.pw2(out2))
            a += out1; b += out1
            out2 = torch.cat([a, b], dim=1)
        return self.move23(self.prelu2(self.move22(out2)))
class ReAct(nn.Module):
    def __init__(self):
        super().__init__()
        self.feature = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)), ReActBlock(16, 32, 1), ReActBlock(32, 32, 2), ReActBlock(32, 64, 2)])
        self.pool1 = nn.AdaptiveAvgPool2d(1); self.fc = nn.Linear(64, 10)
    def forward(self, x):
        for b in self.feature: x = b(x)
        x = self.pool1(x)
        return self.fc(x.view(x.size(0), -1))

# --- IR-Net style, with a scale of powers of two and K by XNOR
class IRConv(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        bw = w - w.view(w.size(0), -1).mean(-1).view(-1, 1, 1, 1)
        bw = bw / bw.view(w.size(0), -1).std(-1).view(-1, 1, 1, 1)
        sw = torch.pow(torch.tensor([2.0]), (torch.log(bw.abs().view(w.size(0), -1).mean(-1)) / 0.6931471805599453).round().float()).view(-1, 1, 1, 1)
        return F.conv2d(torch.sign(x), torch.sign(bw) * sw, self.bias, self.stride, self.padding, self.dilation, self.groups)
class XnorConv(nn.Conv2d):
    def __init__(self, *a, learned=False, **k):
        super().__init__(*a, **k)
        self.scale = nn.Parameter(torch.rand(self.out_channels, 1, 1) + 0.5) if learned else None
    def forward(self, x):
        A = x.abs().mean(1, keepdim=True)
        k = torch.ones(1, 1, *self.kernel_size) / (self.kernel_size[0] * self.kernel_size[1])
        K = F.conv2d(A, k, stride=self.stride, padding=self.padding)
        w = torch.where(self.weight >= 0, 1.0, -1.0)
        alpha = self.scale if self.scale is not None else self.weight.abs().mean((1, 2, 3)).view(-1, 1, 1)
        s = torch.where(x > 0, torch.ones_like(x), -torch.ones_like(x))
        return F.conv2d(s, w, None, self.stride, self.padding) * alpha * K
class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=True); self.bn0 = nn.BatchNorm2d(16)
        self.c1 = IRConv(16, 16, 3, 1, 1, bias=True); self.bn1 = nn.BatchNorm2d(16)
        self.c2 = XnorConv(16, 16, 3, 2, 1); self.bn2 = nn.BatchNorm2d(16)
        self.c3 = XnorConv(16, 32, 3, 1, 1, learned=True); self.bn3 = nn.BatchNorm2d(32)
        self.short = lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 12))
        self.fc = nn.Linear(32, 10)
    def forward(self, x):
        x = F.leaky_relu(self.bn0(self.stem(x)), 0.1)
        x = F.hardtanh(self.bn1(self.c1(x)) + x)
        s = F.pad(x, (0, 1, 1, 0)); 
        y = F.relu6(self.bn2(self.c2(x)))
        y = self.bn3(self.c3(y)) + self.short(x)
        y = F.max_pool2d(y, 3, 2, ceil_mode=True)
        y = y.mean((2, 3))
        return self.fc(F.dropout(y, 0.5, self.training))


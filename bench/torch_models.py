"""The nets of models/ in PyTorch, and one process's share of a comparison: build a net, time its steps, print JSON.

Every module that is timed stands for one layer of the .prototxt of the same net, in the same order, so that compare.py
can hold the two side by side: kinds, numbers of parameters and shapes of tops.
"""

import argparse
import json
import resource
import time

import torch
import torch.nn.functional as F
from torch import nn


def convolution(inputs, outputs, kernel, stride=1, pad=0, groups=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, pad, groups=groups)


def max_pool(kernel, stride, pad=0):
    """Caffe rounds the number of windows up."""
    return nn.MaxPool2d(kernel, stride, pad, ceil_mode=True)


def average_pool(kernel, stride):
    return nn.AvgPool2d(kernel, stride, ceil_mode=True)


def relu():
    return nn.ReLU(inplace=True)


class LrnWithinChannel(nn.Module):
    """x / (1 + alpha · mean of x² over a square window)^beta, as Caffe's WITHIN_CHANNEL; PyTorch has no such layer."""

    def __init__(self, size, alpha, beta):
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x):
        average = F.avg_pool2d(x * x, self.size, stride=1, padding=self.size // 2)
        return x * (1 + self.alpha * average).pow(-self.beta)


class Classifier(nn.Module):
    """A chain of layers whose result is the scores of one classifier."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return [(1.0, self.layers(x))]


def lenet():
    return Classifier(
        convolution(1, 20, 5),
        max_pool(2, 2),
        convolution(20, 50, 5),
        max_pool(2, 2),
        nn.Flatten(),
        nn.Linear(800, 500),
        relu(),
        nn.Linear(500, 10),
    )


def cifar10_quick():
    return Classifier(
        convolution(3, 32, 5, pad=2),
        max_pool(3, 2),
        relu(),
        convolution(32, 32, 5, pad=2),
        relu(),
        average_pool(3, 2),
        convolution(32, 64, 5, pad=2),
        relu(),
        average_pool(3, 2),
        nn.Flatten(),
        nn.Linear(1024, 64),
        nn.Linear(64, 10),
    )


def cifar10_full():
    return Classifier(
        convolution(3, 32, 5, pad=2),
        max_pool(3, 2),
        relu(),
        LrnWithinChannel(3, 5e-5, 0.75),
        convolution(32, 32, 5, pad=2),
        relu(),
        average_pool(3, 2),
        LrnWithinChannel(3, 5e-5, 0.75),
        convolution(32, 64, 5, pad=2),
        relu(),
        average_pool(3, 2),
        nn.Flatten(),
        nn.Linear(1024, 10),
    )


def lrn():
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


def caffenet():
    return Classifier(
        convolution(3, 96, 11, stride=4),
        relu(),
        max_pool(3, 2),
        lrn(),
        convolution(96, 256, 5, pad=2, groups=2),
        relu(),
        max_pool(3, 2),
        lrn(),
        convolution(256, 384, 3, pad=1),
        relu(),
        convolution(384, 384, 3, pad=1, groups=2),
        relu(),
        convolution(384, 256, 3, pad=1, groups=2),
        relu(),
        max_pool(3, 2),
        nn.Flatten(),
        nn.Linear(9216, 4096),
        relu(),
        nn.Dropout(0.5),
        nn.Linear(4096, 4096),
        relu(),
        nn.Dropout(0.5),
        nn.Linear(4096, 1000),
    )


class Inception(nn.Module):
    """Szegedy et al., figure 2b. `widths`: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection."""

    def __init__(self, inputs, widths):
        super().__init__()
        one, reduce3, three, reduce5, five, projection = widths
        self.one = nn.Sequential(convolution(inputs, one, 1), relu())
        self.three = nn.Sequential(
            convolution(inputs, reduce3, 1), relu(), convolution(reduce3, three, 3, pad=1), relu()
        )
        self.five = nn.Sequential(convolution(inputs, reduce5, 1), relu(), convolution(reduce5, five, 5, pad=2), relu())
        self.pool = nn.Sequential(max_pool(3, 1, pad=1), convolution(inputs, projection, 1), relu())
        self.outputs = one + three + five + projection

    def forward(self, x):
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


class GoogLeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            convolution(3, 64, 7, stride=2, pad=3),
            relu(),
            max_pool(3, 2),
            lrn(),
            convolution(64, 64, 1),
            relu(),
            convolution(64, 192, 3, pad=1),
            relu(),
            lrn(),
            max_pool(3, 2),
        )
        self.inception3 = nn.Sequential(
            Inception(192, (64, 96, 128, 16, 32, 32)), Inception(256, (128, 128, 192, 32, 96, 64)), max_pool(3, 2)
        )
        self.inception4a = Inception(480, (192, 96, 208, 16, 48, 64))
        self.loss1 = self.auxiliary(512)
        self.inception4bcd = nn.Sequential(
            Inception(512, (160, 112, 224, 24, 64, 64)),
            Inception(512, (128, 128, 256, 24, 64, 64)),
            Inception(512, (112, 144, 288, 32, 64, 64)),
        )
        self.loss2 = self.auxiliary(528)
        self.top = nn.Sequential(
            Inception(528, (256, 160, 320, 32, 128, 128)),
            max_pool(3, 2),
            Inception(832, (256, 160, 320, 32, 128, 128)),
            Inception(832, (384, 192, 384, 48, 128, 128)),
            average_pool(7, 1),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(1024, 1000),
        )

    @staticmethod
    def auxiliary(channels):
        return nn.Sequential(
            average_pool(5, 3),
            convolution(channels, 128, 1),
            relu(),
            nn.Flatten(),
            nn.Linear(2048, 1024),
            relu(),
            nn.Dropout(0.7),
            nn.Linear(1024, 1000),
        )

    def forward(self, x):
        a = self.inception4a(self.inception3(self.stem(x)))
        first = self.loss1(a)
        d = self.inception4bcd(a)
        return [(0.3, first), (0.3, self.loss2(d)), (1.0, self.top(d))]


class Fire(nn.Module):
    def __init__(self, inputs, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Sequential(convolution(inputs, squeeze, 1), relu())
        self.expand1x1 = nn.Sequential(convolution(squeeze, expand, 1), relu())
        self.expand3x3 = nn.Sequential(convolution(squeeze, expand, 3, pad=1), relu())

    def forward(self, x):
        x = self.squeeze(x)
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1)


def squeezenet():
    return Classifier(
        convolution(3, 64, 3, stride=2),
        relu(),
        max_pool(3, 2),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        max_pool(3, 2),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        max_pool(3, 2),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
        nn.Dropout(0.5),
        convolution(512, 1000, 1),
        relu(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


NETS = {
    "lenet": lenet,
    "cifar10_quick": cifar10_quick,
    "cifar10_full": cifar10_full,
    "caffenet": caffenet,
    "googlenet": GoogLeNet,
    "squeezenet": squeezenet,
}

# Caffe's name for each module that compare.py holds against a layer.
LAYER_TYPES = {
    nn.Conv2d: "Convolution",
    nn.Linear: "InnerProduct",
    nn.MaxPool2d: "Pooling",
    nn.AvgPool2d: "Pooling",
    nn.AdaptiveAvgPool2d: "Pooling",
    nn.LocalResponseNorm: "LRN",
    LrnWithinChannel: "LRN",
    nn.ReLU: "ReLU",
    nn.Dropout: "Dropout",
}


def layers_of(net, images):
    """Type, number of parameters and shape of the result of each layer, in the order in which they run."""
    layers = []

    def note(module, _inputs, result):
        layers.append(
            {
                "type": LAYER_TYPES[type(module)],
                "parameters": sum(p.numel() for p in module.parameters()),
                "shape": list(result.shape),
            }
        )

    hooks = [module.register_forward_hook(note) for module in net.modules() if type(module) in LAYER_TYPES]
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    return layers


def sum_losses(classifiers, labels):
    return sum(weight * F.cross_entropy(scores, labels) for weight, scores in classifiers)


def optimizer_of(net):
    """SGD as `sparknet time` does it; biases have a rate of their own, as in most of the nets."""
    weights = [p for p in net.parameters() if p.dim() > 1]
    biases = [p for p in net.parameters() if p.dim() == 1]
    groups = [{"params": weights, "lr": 1e-6}, {"params": biases, "lr": 2e-6}]
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=0.0005, fused=True)


def train_step(net, optimizer, images, labels):
    start = time.perf_counter()
    loss = sum_losses(net(images), labels)
    forward = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    backward = time.perf_counter()
    optimizer.step()
    end = time.perf_counter()
    return {
        "step_ms": 1000 * (end - start),
        "forward_ms": 1000 * (forward - start),
        "backward_ms": 1000 * (backward - forward),
        "update_ms": 1000 * (end - backward),
    }


def test_step(net, images, labels):
    start = time.perf_counter()
    with torch.inference_mode():
        sum_losses(net(images), labels)
    return {"step_ms": 1000 * (time.perf_counter() - start)}


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=NETS, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--input-shape", required=True, help="c,h,w")
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--format", choices=["nchw", "channels_last"], default="nchw")
    parser.add_argument("--phase", choices=["train", "test"], default="train")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--layers", action="store_true", help="list the layers too")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    memory_kib = {"libraries": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    memory_format = torch.channels_last if args.format == "channels_last" else torch.contiguous_format
    net = NETS[args.net]().to(memory_format=memory_format)
    net.train(args.phase == "train")
    images = torch.randn(args.batch, *map(int, args.input_shape.split(","))).contiguous(memory_format=memory_format)
    labels = torch.randint(args.classes, (args.batch,))
    layers = layers_of(net, images) if args.layers else []
    optimizer = optimizer_of(net)

    samples = []
    for iteration in range(args.warm_up + args.iterations):
        sample = train_step(net, optimizer, images, labels) if args.phase == "train" else test_step(net, images, labels)
        if iteration >= args.warm_up:
            samples.append(sample)
    result = {key: median([sample[key] for sample in samples]) for key in samples[0]}
    memory_kib["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result |= {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "parameters": sum(p.numel() for p in net.parameters()),
        "memory_kib": memory_kib,
        "layers": layers,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

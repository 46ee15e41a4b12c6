"""Small architectures as plain ``nn.Module`` factories."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "linear": nn.Identity,
}


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise ValueError(
            f"activation is {name!r}, expected one of {sorted(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]()


def mlp(
    *widths: int, activation: str = "relu", bias: bool = True, dropout: float = 0.0
) -> nn.Sequential:
    """Fully connected network that flattens its input.

    Args:
        *widths: number of inputs, of units in every hidden layer, and of outputs, as
            in ``mlp(64, 128, 128, 10)``.
        activation: "relu", "tanh", "gelu" or "linear", after every hidden layer.
        bias: of all layers.
        dropout: probability of dropping a hidden unit in training.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths are {widths}, expected two or more positive integers")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}, expected a probability in [0, 1)")
    _activation(activation)
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(inputs, outputs, bias=bias))
        if i < len(widths) - 2:
            layers.append(_activation(activation))
            if dropout:
                layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def cnn(
    shape: Sequence[int],
    classes: int,
    channels: Sequence[int] = (16, 32),
    hidden: int = 64,
    pool: str = "flatten",
    activation: str = "relu",
    dropout: float = 0.0,
) -> nn.Sequential:
    """Small convolutional network for signals or images.

    Every entry of ``channels`` is a 3-wide convolution with stride 2 (stride 1 for the
    first), so that an 8x8 image reaches the dense part as 4x4.

    Args:
        shape: shape of one input, (channels, length) or (channels, height, width).
        classes: number of outputs.
        channels: output channels of the convolutions.
        hidden: width of the dense layer before the outputs; 0 leaves it out.
        pool: how the last feature map becomes a vector: "flatten", "max" or "mean"
            (the latter two over all positions).
        activation: "relu", "tanh", "gelu" or "linear".
        dropout: probability of dropping a unit of the dense layer in training.
    """
    if len(shape) not in (2, 3):
        raise ValueError(
            f"shape is {tuple(shape)}, expected (channels, length) or "
            "(channels, height, width)"
        )
    if pool not in ("flatten", "max", "mean"):
        raise ValueError(f"pool is {pool!r}, expected 'flatten', 'max' or 'mean'")
    signal = len(shape) == 2
    convolution = nn.Conv1d if signal else nn.Conv2d
    layers: list[nn.Module] = []
    inputs, size = shape[0], list(shape[1:])
    for i, outputs in enumerate(channels):
        stride = 1 if i == 0 else 2
        layers += [
            convolution(inputs, outputs, 3, stride=stride, padding=1),
            _activation(activation),
        ]
        inputs, size = outputs, [(s - 1) // stride + 1 for s in size]
    if pool == "flatten":
        inputs *= math.prod(size)
    elif pool == "max":
        layers.append(nn.AdaptiveMaxPool1d(1) if signal else nn.AdaptiveMaxPool2d(1))
    else:
        layers.append(nn.AdaptiveAvgPool1d(1) if signal else nn.AdaptiveAvgPool2d(1))
    layers.append(nn.Flatten())
    if hidden:
        layers += [nn.Linear(inputs, hidden), _activation(activation)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = hidden
    layers.append(nn.Linear(inputs, classes))
    return nn.Sequential(*layers)


class _Residual(nn.Module):
    """x + BatchNorm(conv(ReLU(BatchNorm(conv(x))))) followed by a ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
                nn.BatchNorm2d(outputs),
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.skip(x) + self.body(x))


def resnet(
    shape: Sequence[int], classes: int, channels: Sequence[int] = (8, 16)
) -> nn.Sequential:
    """Small residual network with BatchNorm, in the style of ResNet-20.

    Args:
        shape: shape of one input, (channels, height, width).
        classes: number of outputs.
        channels: width of each residual block; every block but the first halves the
            image.

    Reference: He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
    """
    if len(shape) != 3:
        raise ValueError(f"shape is {tuple(shape)}, expected (channels, height, width)")
    layers: list[nn.Module] = [
        nn.Conv2d(shape[0], channels[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(),
    ]
    inputs = channels[0]
    for i, outputs in enumerate(channels):
        layers.append(_Residual(inputs, outputs, stride=1 if i == 0 else 2))
        inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers)

"""Data sets as tensors, and the ways in which the book corrupts them."""

import gzip
import os
import random
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatlab.environment import check_dtype, needs
from flatlab.progress import wanted

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/"
# Of the archive in the binary format; the Python one is a pickle, never opened here.
CIFAR10_CHECKSUM = (
    "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
)
FASHION_MNIST_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
# As the README of zalandoresearch/fashion-mnist lists them; it gives MD5 sums only.
FASHION_MNIST_CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
}


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs with the labels to be learned and the labels that are true.

    Attributes:
        x: inputs, floating point, shape (n, ...); images are (n, channels, height,
            width).
        y: labels to be learned, int64, shape (n,), or (members, n), or with further
            axes in front, where every member of an ensemble has labels of its own.
        clean_y: true labels, int64, shape (n,); the same as ``y`` unless given.
    """

    x: Tensor
    y: Tensor
    clean_y: Tensor = None  # type: ignore[assignment]  # y where not given

    def __post_init__(self) -> None:
        if self.clean_y is None:
            object.__setattr__(self, "clean_y", self.y)
        if not (isinstance(self.x, Tensor) and self.x.is_floating_point()):
            raise TypeError(
                f"x must be a floating-point tensor, got {_kind(self.x)}; "
                "Dataset.from_arrays converts arrays"
            )
        n = len(self.x) if self.x.ndim > 1 else 0
        if n == 0:
            raise ValueError(
                f"x must have shape (n, ...) with n >= 1, got {tuple(self.x.shape)}"
            )
        for name, labels in (("y", self.y), ("clean_y", self.clean_y)):
            if not (isinstance(labels, Tensor) and labels.dtype == torch.int64):
                raise TypeError(f"{name} must be an int64 tensor, got {_kind(labels)}")
            if labels.shape[-1:] != (n,) or (name == "clean_y" and labels.ndim > 1):
                own = f" or (..., {n})" if name == "y" else ""
                raise ValueError(
                    f"{name} must have shape ({n},){own} to fit x, got "
                    f"{tuple(labels.shape)}"
                )
        if not self.x.isfinite().all():
            bad = int((~self.x.isfinite()).flatten(1).any(1).sum())
            raise ValueError(f"x holds NaN or infinite values in {bad} of {n} examples")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> "Examples":
        """Pick examples by a slice, or by a tensor or list of positions or bools."""
        if isinstance(index, int):
            raise TypeError(
                f"pick several examples at once: [{index}:{index + 1}], not [{index}]"
            )
        return Examples(self.x[index], self.y[..., index], self.clean_y[index])

    @property
    def corrupted(self) -> Tensor:
        """Where the label to be learned is wrong: bool, shape of ``y``."""
        return self.y != self.clean_y

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "Examples":
        """Move to a device, and convert the inputs to a floating-point dtype."""
        check_dtype(dtype or self.x.dtype, device or self.x.device)
        return Examples(
            self.x.to(device=device, dtype=dtype),
            self.y.to(device=device),
            self.clean_y.to(device=device),
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of one data set.

    Attributes:
        train: ``Examples`` to learn from; the only ones a corruption of labels touches.
        validation: ``Examples`` to make choices with.
        test: ``Examples`` to report on.
        classes: number of classes; labels are 0 to classes - 1.
        name: of the data set, with what was done to it.
    """

    train: Examples
    validation: Examples
    test: Examples
    classes: int
    name: str

    def __post_init__(self) -> None:
        form = tuple(self.train.x.shape[1:])
        for split in ("train", "validation", "test"):
            examples = getattr(self, split)
            for labels in (examples.y, examples.clean_y):
                low, high = int(labels.min()), int(labels.max())
                if low < 0 or high >= self.classes:
                    raise ValueError(
                        f"labels of the {split} split run from {low} to {high}; with "
                        f"{self.classes} classes they must lie in 0..{self.classes - 1}"
                    )
            if (own := tuple(examples.x.shape[1:])) != form:
                raise ValueError(
                    f"inputs of the {split} split have shape {own}, those of the train "
                    f"split {form}"
                )

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> "Dataset":
        """Move all splits to a device, and convert the inputs to a dtype."""
        return self._map(lambda examples: examples.to(device, dtype), self.name)

    def subset(self, n: int) -> "Dataset":
        """Keep the first n examples of the train split, and the other splits whole."""
        if not 1 <= n <= len(self.train):
            raise ValueError(
                f"n must lie in 1..{len(self.train)}, the size of the train split; "
                f"got {n}"
            )
        return replace(self, train=self.train[:n], name=f"{self.name}[:{n}]")

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        *,
        test: Any = 0.2,
        validation: Any = 0.1,
        classes: int | None = None,
        seed: int = 0,
        name: str = "arrays",
    ) -> "Dataset":
        """Make a data set of arrays, splitting off what is not given.

        Args:
            x: inputs, NumPy array or tensor of numbers, shape (n, ...); becomes
                float32. Scale them yourself.
            y: labels, array or tensor of integers, shape (n,).
            test: a pair (x, y) of the same kind, or the fraction of the examples to
                split off at random.
            validation: likewise.
            classes: number of classes; by default the highest label plus one.
            seed: of the split.
            name: of the data set.

        Returns:
            A ``Dataset``; what remains of (x, y) is the train split.
        """
        rest = _examples(x, y)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(rest)))
        splits: dict[str, Examples] = {}
        used = 0
        for split, given in (("test", test), ("validation", validation)):
            if not isinstance(given, int | float):
                splits[split] = _examples(*given)
                continue
            if not 0 < given < 1:
                raise ValueError(
                    f"{split} must be a pair (x, y) or a fraction in (0, 1), "
                    f"got {given}"
                )
            part = order[used : used + round(given * len(rest))]
            used += len(part)
            if len(part) == 0 or used >= len(rest):
                raise ValueError(
                    f"{len(rest)} examples are too few to split off test={test} and "
                    f"validation={validation}"
                )
            splits[split] = rest[part]
        # Untouched where nothing is split off, so that the user's order stays.
        train = rest[order[used:]] if used else rest
        if classes is None:
            classes = 1 + max(int(part.y.max()) for part in (train, *splits.values()))
        return cls(train, splits["validation"], splits["test"], classes, name)

    def _map(self, change: Callable[[Examples], Examples], name: str) -> "Dataset":
        """Apply a function of Examples to each split."""
        train, check, test = map(change, (self.train, self.validation, self.test))
        return Dataset(train, check, test, self.classes, name)

    def _with_inputs(self, change: Callable[[Tensor], Tensor], what: str) -> "Dataset":
        """The same labels with other inputs, split by split."""
        return self._map(lambda e: replace(e, x=change(e.x)), f"{self.name}, {what}")


# -- the data sets -------------------------------------------------------------------


def digits(seed: int = 0, standardize: bool = True) -> Dataset:
    """Load scikit-learn's 1,797 handwritten digits, (n, 1, 8, 8), of 10 classes.

    Args:
        seed: of the split into 1,000 train, 297 validation and 500 test examples.
        standardize: divide by one mean and standard deviation, those of all pixels of
            the train split; False leaves intensities in [0, 1].
    """
    bunch = needs("sklearn.datasets").load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    x = (bunch.images[order, None] / 16).astype(np.float32)
    return _split(x, bunch.target[order], 1000, 297, "digits", standardize)


def mnist1d(
    seed: int = 0, train: int = 4000, validation: int = 1000, test: int = 8000
) -> Dataset:
    """Draw the MNIST-1D signals, (n, 1, 40): ten digits as noisy curves of 40 points.

    The generator of the ``mnist1d`` package makes all splits in one draw, which is kept
    in the folder ``FLATLAB_CACHE`` or the user's cache; inputs are standardised by one
    mean and standard deviation, those of the train split.

    Args:
        seed: of the draw.
        train: number of train examples. Sizes that differ give different draws; to
            compare sizes take ``subset`` of one draw.
        validation: number of validation examples.
        test: number of test examples; many, so that they do not limit accuracies.
    """
    total = sum(_sizes(train, validation, test))
    path = _cache() / f"mnist1d-seed{seed}-{total}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            x, y = stored["x"], stored["y"]
    else:
        x, y = _draw_mnist1d(seed, total)
        with suppress(OSError):  # a folder that cannot be written costs time only
            path.parent.mkdir(parents=True, exist_ok=True)
            # moved when it is whole: a reader never sees half a file
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                np.savez(Path(folder) / path.name, x=x, y=y)
                os.replace(Path(folder) / path.name, path)
    return _split(x[:total, None], y[:total], train, validation, "mnist1d")


def twelve_bits(
    seed: int = 0, fraction: float = 0.85, validation: float = 0.05
) -> Dataset:
    """Compute the task of Shwartz-Ziv and Tishby: all patterns of 12 bits, (n, 12).

    The bits stand for the vertices of an icosahedron. A pattern has label 1 where the
    number of its bits plus 1.115 times the length of the sum of their vertices exceeds
    7.7775, a function that no symmetry of the icosahedron changes. This gives 2,118
    ones among the 4,096 patterns. The published labels are the same up to the order
    of the bits, to which a fully connected network is indifferent.

    Args:
        seed: of the split.
        fraction: of the patterns to train on; the paper has 0.05, 0.45 and 0.85. For
            one seed a lower fraction keeps a subset, and validation examples stay.
        validation: fraction of the patterns for the validation split; the test split
            is what remains.
    """
    train, held_out = round(4096 * fraction), round(4096 * validation)
    if train < 1 or held_out < 1 or train + held_out >= 4096:
        raise ValueError(
            "fraction and validation must be positive and leave patterns to test on; "
            f"got {fraction} and {validation}"
        )
    bits = np.arange(4096)[:, None] >> np.arange(11, -1, -1) & 1
    length = np.linalg.norm(bits @ _icosahedron(), axis=1)
    ones = bits.sum(1) + 1.115 * length > 7.7775
    order = torch.from_numpy(np.random.default_rng(seed).permutation(4096))
    x, y = torch.from_numpy(bits).float(), torch.from_numpy(ones).long()
    end = 4096 - held_out
    return _dataset(
        x, y, (order[:train], order[end:], order[train:end]), 2, "twelve_bits"
    )


def cifar10(seed: int = 0, validation: int = 5000) -> Dataset:
    """Load CIFAR-10, (n, 3, 32, 32), from its binary archive.

    Downloaded on first use (162 MB) into the folder ``FLATLAB_CACHE`` or the user's
    cache, and standardised by one mean and standard deviation of the train split.
    ``seed`` is that of the choice of validation examples among the 50,000 to train on.
    """
    path = _fetch("cifar-10-binary.tar.gz", CIFAR10_URL, CIFAR10_CHECKSUM)
    names = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    with tarfile.open(path) as archive:
        files = [archive.extractfile(f"cifar-10-batches-bin/{name}") for name in names]
        content = [file.read() for file in files if file is not None]
    # a label and three channels of 32 by 32 pixels
    records = np.frombuffer(b"".join(content), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
    x, y = records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
    return _with_test_split(x, y, len(content[-1]) // 3073, validation, seed, "cifar10")


def fashion_mnist(seed: int = 0, validation: int = 5000) -> Dataset:
    """Load Fashion-MNIST, (n, 1, 28, 28), 30 MB; kept and split as by ``cifar10``."""
    images, labels = [], []
    for name, checksum in FASHION_MNIST_CHECKSUMS.items():
        file = _fetch(name, FASHION_MNIST_URL, checksum)
        content = gzip.decompress(file.read_bytes())
        if "images" in name:
            pixels = np.frombuffer(content, np.uint8, offset=16)
            images.append(pixels.reshape(-1, 1, 28, 28))
        else:
            labels.append(np.frombuffer(content, np.uint8, offset=8))
    x, y, test = np.concatenate(images), np.concatenate(labels), len(images[1])
    return _with_test_split(x, y, test, validation, seed, "fashion_mnist")


# The quadrants where stars and where moons stand: (row, column), each 0 or 1.
PLACEMENTS = {
    "diagonal": (((0, 1), (1, 0)), ((0, 0), (1, 1))),
    "swapped": (((0, 0), (1, 1)), ((0, 1), (1, 0))),
    "left-right": (((0, 0), (1, 0)), ((0, 1), (1, 1))),
    "right-left": (((0, 1), (1, 1)), ((0, 0), (1, 0))),
    "random": (((0, 0), (0, 1), (1, 0), (1, 1)),) * 2,
}


def stars_and_moons(
    seed: int = 0,
    placement: str = "diagonal",
    test_placement: str | None = None,
    train: int = 600,
    validation: int = 200,
    test: int = 1000,
) -> Dataset:
    """Draw stars and moons whose place gives their class away.

    The toy task of Geirhos et al. (2020), figure 2: one bright star or crescent moon
    stands in a quadrant of a dark image. Size, angle and place within the quadrant
    are random and alike for both; both cover the same area, so that brightness does
    not tell them apart. The seed fixes every shape: two data sets that differ in
    the placements alone hold the same shapes in other quadrants.

    Args:
        seed: of the draw.
        placement: of train and validation examples. ``"diagonal"``: stars top right
            or bottom left, moons top left or bottom right; ``"swapped"``: the other
            way round; ``"left-right"``: stars left, moons right; ``"right-left"``:
            the other way round; ``"random"``: both in any quadrant.
        test_placement: of test examples; by default that of the others.
        train: number of train examples.
        validation: number of validation examples.
        test: number of test examples.

    Returns:
        A ``Dataset`` of 2 classes, 0 for stars and 1 for moons, equally many of each
        to within one; inputs (n, 1, 20, 20) in [0, 1].
    """
    places = [placement, placement, test_placement or placement]
    for place in places:
        if place not in PLACEMENTS:
            raise ValueError(
                f"unknown placement {place!r}; known are {', '.join(PLACEMENTS)}"
            )
    sizes = _sizes(train, validation, test)
    learn, check, rest = (
        _draw_stars_and_moons(n, PLACEMENTS[place], np.random.default_rng([seed, i]))
        for i, (n, place) in enumerate(zip(sizes, places, strict=True))
    )
    name = f"stars_and_moons, {placement}"
    if places[2] != placement:
        name += f", tested {places[2]}"
    return Dataset(learn, check, rest, 2, name)


# -- the corruptions -----------------------------------------------------------------


def corrupt_labels(data: Dataset, fraction: Any, seed: Any = 0) -> Dataset:
    """Replace labels of the train split by random ones, the true one among them.

    As Zhang et al. (2017) do, so that of 10 classes one in ten replaced labels stays.

    The order in which examples are hit and the label each would get depend on the seed
    alone, so a higher fraction corrupts a superset: a sweep over fractions is paired.

    Args:
        data: a ``Dataset`` whose labels are shared by all members.
        fraction: of the train labels to replace, in [0, 1]: a number, or (members,).
        seed: one number for all members, or a sequence with one per member.

    Returns:
        A ``Dataset`` with ``train.y`` of shape (n,), or (members, n) where fraction or
        seed has one value per member. ``train.clean_y``, validation and test stay.
    """
    if data.train.y.ndim != 1:
        raise ValueError(
            "the labels are per member already, shape "
            f"{tuple(data.train.y.shape)}; corrupt data whose labels have shape (n,)"
        )
    fractions = np.asarray(torch.as_tensor(fraction, device="cpu"), dtype=np.float64)
    if not ((fractions >= 0) & (fractions <= 1)).all():
        raise ValueError(f"fraction must lie in [0, 1], got {fraction}")
    seeds = np.asarray(list(seed) if np.iterable(seed) else seed)
    fractions, seeds = np.broadcast_arrays(fractions, seeds)
    y, n = data.train.y.cpu().numpy(), len(data.train)
    draws = {}  # the order in which examples are hit, and the label each would get
    for s in np.unique(seeds).tolist():
        rng = np.random.default_rng(s)
        draws[s] = rng.permutation(n), rng.integers(data.classes, size=n)
    learned = np.empty((fractions.size, n), np.int64)
    for row, p, s in zip(learned, fractions.flat, seeds.flat, strict=True):
        order, labels = draws[int(s)]
        hit = order[: round(p * n)]
        row[:], row[hit] = y, labels[hit]
    new = torch.from_numpy(learned.reshape(*fractions.shape, n))
    train = replace(data.train, y=new.to(data.train.y.device))
    return replace(data, train=train, name=f"{data.name}, corrupted labels")


def shuffled_pixels(data: Dataset, seed: int = 0) -> Dataset:
    """Apply one and the same random permutation to the pixels of every image.

    Train, validation and test images are permuted alike, so that there is as much to
    learn as before (Zhang et al. 2017, section 2.1). Channels of a pixel stay together.
    """
    pixels = _pixels(data.train.x).shape[-1]
    order = torch.from_numpy(np.random.default_rng(seed).permutation(pixels))

    def shuffle(x: Tensor) -> Tensor:
        return _pixels(x)[..., order.to(x.device)].reshape(x.shape)

    return data._with_inputs(shuffle, "shuffled pixels")


def random_pixels(data: Dataset, seed: int = 0) -> Dataset:
    """Apply a fresh random permutation to the pixels of each image.

    Zhang et al. (2017), section 2.1. Channels of a pixel stay together.
    """
    rng = np.random.default_rng(seed)

    def shuffle(x: Tensor) -> Tensor:
        flat = _pixels(x)
        order = torch.from_numpy(rng.random((len(x), flat.shape[-1])).argsort(1))
        order = order.to(x.device)[:, None].expand_as(flat)
        return flat.gather(-1, order).reshape(x.shape)

    return data._with_inputs(shuffle, "random pixels")


def gaussian_inputs(data: Dataset, seed: int = 0) -> Dataset:
    """Replace every input by Gaussian noise of the data's mean and variance.

    Zhang et al. (2017), section 2.1; the mean and variance are those of all pixels of
    the train split.
    """
    rng = np.random.default_rng(seed)
    mean, std = float(data.train.x.mean()), float(data.train.x.std())

    def draw(x: Tensor) -> Tensor:
        return (mean + std * torch.from_numpy(rng.standard_normal(x.shape))).to(x)

    return data._with_inputs(draw, "Gaussian inputs")


# -- helpers -------------------------------------------------------------------------


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    return type(value).__name__


def _examples(x: Any, y: Any) -> Examples:
    """Examples from arrays or tensors of any numeric dtype."""
    x, y = (
        values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
        for values in (x, y)
    )
    if x.is_complex() or x.dtype == torch.bool:
        raise TypeError(f"x must hold real numbers, got {x.dtype}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"y must hold integer labels, got {y.dtype}")
    if y.ndim != 1:
        raise ValueError(f"y must have shape (n,), got {tuple(y.shape)}")
    return Examples(x.to(torch.float32), y.to(torch.int64))


def _sizes(*sizes: int) -> tuple[int, ...]:
    if min(sizes) < 1:
        raise ValueError(f"train, validation and test must be at least 1, got {sizes}")
    return sizes


def _dataset(x: Tensor, y: Tensor, parts: Any, classes: int, name: str) -> Dataset:
    """Train, validation and test: the examples of three slices or index tensors."""
    train, validation, test = (Examples(x[part], y[part]) for part in parts)
    return Dataset(train, validation, test, classes, name)


def _split(
    x: np.ndarray, y: np.ndarray, train: int, validation: int, name: str,
    standardize: bool = True,
) -> Dataset:  # fmt: skip
    """Cut in order, and bring all splits to one scale: one per split bends the test."""
    inputs, end = torch.from_numpy(np.ascontiguousarray(x)), train + validation
    if standardize:
        reference = inputs[:train].double()
        mean, std = reference.mean(), reference.std(correction=0)
        inputs = ((inputs.double() - mean) / std).float()
    parts = slice(train), slice(train, end), slice(end, None)
    return _dataset(inputs, torch.from_numpy(y).long(), parts, 10, name)


def _icosahedron() -> np.ndarray:
    """Unit vectors to the 12 vertices, (12, 3)."""
    golden = (1 + np.sqrt(5)) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    vertices = [np.roll(corner, turn) for turn in (0, 1, 2) for corner in corners]
    return np.array(vertices) / np.sqrt(1 + golden**2)


def _with_test_split(
    x: np.ndarray, y: np.ndarray, test: int, validation: int, seed: int, name: str
) -> Dataset:
    """Split validation examples off byte images, the last of which are the test set."""
    n = len(y) - test
    if not 1 <= validation < n:
        raise ValueError(f"validation must lie in 1..{n - 1}, got {validation}")
    order = np.append(np.random.default_rng(seed).permutation(n), np.arange(n, len(y)))
    pixels, labels = torch.from_numpy(x[order]).float(), torch.from_numpy(y[order])
    # In float32 and without a float64 copy: CIFAR-10 has 184 million pixels.
    reference = pixels[validation:n]
    pixels = (pixels - reference.mean()) / reference.std()
    parts = slice(validation, n), slice(validation), slice(n, None)
    return _dataset(pixels, labels.long(), parts, 10, name)


def _draw_stars_and_moons(n: int, quadrants: Any, rng: np.random.Generator) -> Examples:
    """Examples with one shape each, in one of the quadrants of its class."""
    y = rng.permutation(np.arange(n) % 2)
    patches = _draw_patches(y, rng)
    # One number per example, whatever the placement: the shapes stay the same.
    u = rng.random(n)
    x = np.zeros((n, 1, 20, 20), np.float32)
    for i, label in enumerate(y):
        choices = quadrants[label]
        row, column = choices[int(u[i] * len(choices))]
        x[i, 0, 10 * row :, 10 * column :][:10, :10] = patches[i]
    return Examples(torch.from_numpy(x), torch.from_numpy(y))


def _draw_patches(
    y: np.ndarray, rng: np.random.Generator, size: int = 10, fine: int = 4
) -> np.ndarray:
    """Stars (y = 0) and crescents (y = 1) of size by size pixels.

    A pixel is the covered share of ``fine`` by ``fine`` points in it.
    """
    n = len(y)
    radius = rng.uniform(3.5, 4.5, n)
    angle = rng.uniform(0, 2 * np.pi, n)
    centre = rng.uniform(radius, size - radius, (2, n))
    points = (np.arange(size * fine) + 0.5) / fine
    shape = (n, 1, 1)
    # in units of the radius and turned by the angle, as (n, rows, columns)
    down = (points[:, None] - centre[0].reshape(shape)) / radius.reshape(shape)
    right = (points - centre[1].reshape(shape)) / radius.reshape(shape)
    distance = np.hypot(down, right)
    turned = np.arctan2(down, right) - angle.reshape(shape)
    # Fold the five points of the star onto half of one: an edge from the tip (1, 0)
    # to the inner corner.
    fifth, inner = 2 * np.pi / 5, 0.45
    folded = np.abs((turned + fifth / 2) % fifth - fifth / 2)
    corner = inner * np.cos(fifth / 2), inner * np.sin(fifth / 2)
    along, across = distance * np.cos(folded), distance * np.sin(folded)
    star = (along - 1) * corner[1] <= across * (corner[0] - 1)
    # A disc without a smaller one, whose shift makes the area that of the star.
    hole, shift = 0.8, 0.3659
    bite = np.hypot(distance * np.cos(turned) - shift, distance * np.sin(turned))
    moon = (distance <= 1) & (bite > hole)
    covered = np.where(y.reshape(shape) == 0, star, moon)
    return covered.reshape(n, size, fine, size, fine).mean((2, 4))


def _pixels(x: Tensor) -> Tensor:
    """View inputs as (n, channels, pixels); plain features count as pixels."""
    return x.flatten(2) if x.ndim > 2 else x[:, None]


def _draw_mnist1d(seed: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    generator = needs("mnist1d.data")
    args = generator.get_dataset_args()
    args.seed = seed
    args.num_samples = -(-total // 10) * 10  # it draws the same number per class
    args.train_split = 1.0
    # the generator seeds the global random state: that is put back
    python, numpy = random.getstate(), np.random.get_state()
    try:
        made = generator.make_dataset(args)
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
    return made["x"].astype(np.float32), made["y"]


def _cache() -> Path:
    folder = os.environ.get("FLATLAB_CACHE") or needs("pooch").os_cache("flatlab")
    return Path(folder).expanduser()


def _fetch(name: str, base_url: str, checksum: str) -> Path:
    """A file of the cache, downloaded unless it is there already and as it should be.

    Who cannot download puts the file there by hand.
    """
    pooch = needs("pooch")
    show = wanted() and find_spec("tqdm") is not None
    loader = pooch.HTTPDownloader(progressbar=show)
    return Path(pooch.retrieve(base_url + name, checksum, name, _cache(), None, loader))

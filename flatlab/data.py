"""Data sets as tensors, and the ways in which the book corrupts them."""

import gzip
import os
import random
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
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

    def __post_init__(self):
        if self.clean_y is None:
            object.__setattr__(self, "clean_y", self.y)
        if not (isinstance(self.x, Tensor) and self.x.is_floating_point()):
            raise TypeError(
                f"x must be a floating-point tensor, got {_kind(self.x)}; "
                "Dataset.from_arrays converts arrays"
            )
        for name, labels in (("y", self.y), ("clean_y", self.clean_y)):
            if not (isinstance(labels, Tensor) and labels.dtype == torch.int64):
                raise TypeError(f"{name} must be an int64 tensor, got {_kind(labels)}")
        if self.x.ndim < 2 or len(self.x) == 0:
            raise ValueError(
                f"x must have shape (n, ...) with n >= 1, got {tuple(self.x.shape)}"
            )
        n = len(self.x)
        if self.y.ndim < 1 or self.y.shape[-1] != n:
            raise ValueError(
                f"y must have shape ({n},) or (..., {n}) to fit x, "
                f"got {tuple(self.y.shape)}"
            )
        if self.clean_y.shape != (n,):
            raise ValueError(
                f"clean_y must have shape ({n},) to fit x, "
                f"got {tuple(self.clean_y.shape)}"
            )
        if not torch.isfinite(self.x).all():
            bad = int((~torch.isfinite(self.x)).flatten(1).any(1).sum())
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

    def to(self, device=None, dtype=None):
        """Move to a device, and convert the inputs to a floating-point dtype.

        Args:
            device: a ``torch.device`` or its name; None leaves it.
            dtype: of ``x``; None leaves it.

        Returns:
            Examples, sharing memory where nothing changes.
        """
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

    def __post_init__(self):
        for split in ("train", "validation", "test"):
            examples = getattr(self, split)
            for labels in (examples.y, examples.clean_y):
                low, high = int(labels.min()), int(labels.max())
                if low < 0 or high >= self.classes:
                    raise ValueError(
                        f"labels of the {split} split run from {low} to {high}; with "
                        f"{self.classes} classes they must lie in 0..{self.classes - 1}"
                    )
            if examples.x.shape[1:] != self.train.x.shape[1:]:
                raise ValueError(
                    f"inputs of the {split} split have shape "
                    f"{tuple(examples.x.shape[1:])}, those of the train split "
                    f"{tuple(self.train.x.shape[1:])}"
                )

    def to(self, device=None, dtype=None):
        """Move all splits to a device, and convert the inputs to a dtype.

        Args:
            device: a ``torch.device`` or its name; None leaves it.
            dtype: of the inputs; None leaves it.

        Returns:
            A ``Dataset``.
        """
        return self._map(lambda examples: examples.to(device, dtype))

    def subset(self, n: int) -> "Dataset":
        """Keep only the first examples of the train split.

        Args:
            n: how many, 1 to ``len(train)``.

        Returns:
            A ``Dataset`` with the same validation and test splits.
        """
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
        splits = {}
        used = 0
        for split, given in (("test", test), ("validation", validation)):
            if not isinstance(given, int | float):
                inputs, labels = given
                splits[split] = _examples(inputs, labels)
                continue
            if not 0 < given < 1:
                raise ValueError(
                    f"{split} must be a pair (x, y) or a fraction in (0, 1), "
                    f"got {given}"
                )
            count = round(given * len(rest))
            splits[split] = order[used : used + count]
            used += count
            if count == 0 or used >= len(rest):
                raise ValueError(
                    f"{len(rest)} examples are too few to split off test={test} and "
                    f"validation={validation}"
                )
        splits = {
            split: rest[part] if isinstance(part, Tensor) else part
            for split, part in splits.items()
        }
        # Untouched where nothing is split off, so that the user's order stays.
        train = rest[order[used:]] if used else rest
        if classes is None:
            classes = 1 + max(int(part.y.max()) for part in (train, *splits.values()))
        return cls(train, splits["validation"], splits["test"], classes, name)

    def _map(
        self, change: Callable[[Examples], Examples], name: str | None = None
    ) -> "Dataset":
        """Apply a function of Examples to each split."""
        return replace(
            self,
            train=change(self.train),
            validation=change(self.validation),
            test=change(self.test),
            name=name or self.name,
        )


# -- the data sets -------------------------------------------------------------------


def digits(seed: int = 0, standardize: bool = True) -> Dataset:
    """Load scikit-learn's 1,797 handwritten digits of 8 by 8 pixels.

    Args:
        seed: of the split into 1,000 train, 297 validation and 500 test examples.
        standardize: divide by one mean and standard deviation, those of all pixels of
            the train split; False leaves intensities in [0, 1].

    Returns:
        A ``Dataset`` of 10 classes; inputs (n, 1, 8, 8).
    """
    datasets = needs("sklearn.datasets")
    bunch = datasets.load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    x = (bunch.images[order, None] / 16).astype(np.float32)
    return _split(x, bunch.target[order], 1000, 297, "digits", standardize)


def mnist1d(
    seed: int = 0,
    train: int = 4000,
    validation: int = 1000,
    test: int = 8000,
    cache: str | Path | None = None,
) -> Dataset:
    """Draw the MNIST-1D signals: ten digits as noisy curves of 40 points.

    The generator of the ``mnist1d`` package makes all splits in one draw, which is
    kept in the cache; inputs are standardised by one mean and standard deviation,
    those of the train split.

    Args:
        seed: of the draw.
        train: number of train examples. Sizes that differ give different draws; to
            compare sizes take ``subset`` of one draw.
        validation: number of validation examples.
        test: number of test examples; many, so that accuracies are not limited by
            them.
        cache: folder for the draw; by default ``FLATLAB_CACHE`` or the user's cache.

    Returns:
        A ``Dataset`` of 10 classes; inputs (n, 1, 40).
    """
    for split, size in (("train", train), ("validation", validation), ("test", test)):
        if size < 1:
            raise ValueError(f"{split} must be at least 1, got {size}")
    total = train + validation + test
    path = _cache_path(cache, f"mnist1d-seed{seed}-{total}.npz")
    stored = _read_npz(path)
    if stored is None:
        # Find out that the folder is read-only before working, not after.
        _check_writable(path.parent)
        stored = _draw_mnist1d(seed, total)
        _write_npz(path, **stored)
    x = stored["x"][:total, None]
    return _split(x, stored["y"][:total], train, validation, "mnist1d")


def twelve_bits(
    seed: int = 0, fraction: float = 0.85, validation: float = 0.05
) -> Dataset:
    """Compute the task of Shwartz-Ziv and Tishby: all patterns of 12 bits.

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

    Returns:
        A ``Dataset`` of 2 classes; inputs (n, 12), zeros and ones.
    """
    train, held_out = round(4096 * fraction), round(4096 * validation)
    if train < 1 or held_out < 1 or train + held_out >= 4096:
        raise ValueError(
            "fraction and validation must be positive and leave patterns to test on; "
            f"got {fraction} and {validation}"
        )
    x = np.arange(4096)[:, None] >> np.arange(11, -1, -1) & 1
    length = np.linalg.norm(x @ _icosahedron(), axis=1)
    y = (x.sum(1) + 1.115 * length > 7.7775).astype(np.int64)
    order = np.random.default_rng(seed).permutation(4096)
    ends = slice(train), slice(4096 - held_out, None), slice(train, 4096 - held_out)
    learn, check, rest = (_examples(x[order[e]], y[order[e]]) for e in ends)
    return Dataset(learn, check, rest, 2, "twelve_bits")


def cifar10(
    seed: int = 0,
    validation: int = 5000,
    cache: str | Path | None = None,
    base_url: str = CIFAR10_URL,
    checksum: str = CIFAR10_CHECKSUM,
) -> Dataset:
    """Load CIFAR-10 from its binary archive, downloaded on first use (162 MB).

    Args:
        seed: of the choice of validation examples among the 50,000 to train on.
        validation: number of validation examples.
        cache: folder for the archive; by default ``FLATLAB_CACHE`` or the user's cache.
        base_url: address of the folder that holds ``cifar-10-binary.tar.gz``.
        checksum: ``"<algorithm>:<hex digest>"`` that the archive must have.

    Returns:
        A ``Dataset`` of 10 classes; inputs (n, 3, 32, 32), standardised by one mean
        and standard deviation of the train split.
    """
    path = _fetch("cifar-10-binary.tar.gz", base_url, checksum, cache)
    folder = "cifar-10-batches-bin"
    with tarfile.open(path) as archive:
        learn = [
            _read_cifar(archive, f"{folder}/data_batch_{i}.bin") for i in range(1, 6)
        ]
        test = _read_cifar(archive, f"{folder}/test_batch.bin")
    x, y = (np.concatenate(parts) for parts in zip(*learn, strict=True))
    return _with_test_split(x, y, *test, validation, seed, "cifar10")


def fashion_mnist(
    seed: int = 0,
    validation: int = 5000,
    cache: str | Path | None = None,
    base_url: str = FASHION_MNIST_URL,
    checksums: dict[str, str] = FASHION_MNIST_CHECKSUMS,
) -> Dataset:
    """Load Fashion-MNIST, downloaded on first use (30 MB).

    Args:
        seed: of the choice of validation examples among the 60,000 to train on.
        validation: number of validation examples.
        cache: folder for the files; by default ``FLATLAB_CACHE`` or the user's cache.
        base_url: address of the folder that holds the four files.
        checksums: maps each file name to ``"<algorithm>:<hex digest>"``.

    Returns:
        A ``Dataset`` of 10 classes; inputs (n, 1, 28, 28), standardised by one mean
        and standard deviation of the train split.
    """
    x, y, test_x, test_y = (
        _read_idx(_fetch(name, base_url, checksums[name], cache))
        for name in FASHION_MNIST_CHECKSUMS
    )
    return _with_test_split(
        x[:, None], y, test_x[:, None], test_y, validation, seed, "fashion_mnist"
    )


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
    for name in places:
        if name not in PLACEMENTS:
            raise ValueError(
                f"unknown placement {name!r}; known are {', '.join(PLACEMENTS)}"
            )
    splits: list[Examples] = []
    for i, (split, n) in enumerate(
        {"train": train, "validation": validation, "test": test}.items()
    ):
        if n < 1:
            raise ValueError(f"{split} must be at least 1, got {n}")
        rng = np.random.default_rng([seed, i])
        splits.append(_draw_stars_and_moons(n, PLACEMENTS[places[i]], rng))
    name = f"stars_and_moons, {placement}"
    if places[2] != placement:
        name += f", tested {places[2]}"
    learn, check, rest = splits
    return Dataset(learn, check, rest, 2, name)


# -- the corruptions -----------------------------------------------------------------


def corrupt_labels(data: Dataset, fraction: Any, seed: Any = 0) -> Dataset:
    """Replace labels of the train split by random ones, the true one among them.

    As Zhang et al. (2017) do, so that of 10 classes one in ten replaced labels stays.

    The order in which examples are hit and the label each would get depend on the seed
    alone, so a higher fraction corrupts a superset: a sweep over fractions is paired.

    Args:
        data: a ``Dataset`` whose labels are shared by all members.
        fraction: of the train labels to replace, in [0, 1]: a number, or one value
            per member, shape (members,).
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
    if data.classes < 2:
        raise ValueError("labels of a single class cannot be corrupted")
    fractions = np.asarray(torch.as_tensor(fraction, device="cpu"), dtype=np.float64)
    if not ((fractions >= 0) & (fractions <= 1)).all():
        raise ValueError(f"fraction must lie in [0, 1], got {fraction}")
    seeds = np.asarray(list(seed) if np.iterable(seed) else seed)
    try:
        fractions, seeds = np.broadcast_arrays(fractions, seeds)
    except ValueError:
        raise ValueError(
            f"fraction has shape {fractions.shape} and seed {seeds.shape}: "
            "they must broadcast"
        ) from None
    y = data.train.y.cpu().numpy()
    truth = data.train.clean_y.cpu().numpy()
    draws = {int(s): _label_draw(truth, data.classes, int(s)) for s in np.unique(seeds)}
    learned = []
    for p, s in zip(fractions.ravel(), seeds.ravel(), strict=True):
        order, labels = draws[int(s)]
        hit = order[: round(p * len(y))]
        member = y.copy()
        member[hit] = labels[hit]
        learned.append(member)
    new = torch.from_numpy(np.stack(learned)).to(data.train.y.device)
    new = new.reshape((*fractions.shape, len(y)))
    return replace(
        data,
        train=replace(data.train, y=new),
        name=f"{data.name}, corrupted labels",
    )


def shuffled_pixels(data: Dataset, seed: int = 0) -> Dataset:
    """Apply one and the same random permutation to the pixels of every image.

    Train, validation and test images are permuted alike, so that there is as much to
    learn as before (Zhang et al. 2017, section 2.1). Channels of a pixel stay together.

    Args:
        data: a ``Dataset``.
        seed: of the permutation.

    Returns:
        A ``Dataset`` with inputs of the same shape.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(_pixels(data.train.x).shape[-1])

    def shuffle(examples):
        flat = _pixels(examples.x)
        x = flat[..., torch.from_numpy(order).to(flat.device)]
        return replace(examples, x=x.reshape(examples.x.shape))

    return data._map(shuffle, f"{data.name}, shuffled pixels")


def random_pixels(data: Dataset, seed: int = 0) -> Dataset:
    """Apply a fresh random permutation to the pixels of each image.

    Zhang et al. (2017), section 2.1. Channels of a pixel stay together.

    Args:
        data: a ``Dataset``.
        seed: of the permutations.

    Returns:
        A ``Dataset`` with inputs of the same shape.
    """
    rng = np.random.default_rng(seed)

    def shuffle(examples):
        flat = _pixels(examples.x)
        order = rng.random((len(flat), flat.shape[-1])).argsort(1)
        order = torch.from_numpy(order).to(flat.device)[:, None].expand_as(flat)
        return replace(examples, x=flat.gather(-1, order).reshape(examples.x.shape))

    return data._map(shuffle, f"{data.name}, random pixels")


def gaussian_inputs(data: Dataset, seed: int = 0) -> Dataset:
    """Replace every input by Gaussian noise of the data's mean and variance.

    Zhang et al. (2017), section 2.1; the mean and variance are those of all pixels of
    the train split.

    Args:
        data: a ``Dataset``.
        seed: of the noise.

    Returns:
        A ``Dataset`` with inputs of the same shape.
    """
    rng = np.random.default_rng(seed)
    mean, std = float(data.train.x.mean()), float(data.train.x.std())

    def draw(examples):
        noise = torch.from_numpy(rng.standard_normal(examples.x.shape))
        return replace(examples, x=(mean + std * noise).to(examples.x))

    return data._map(draw, f"{data.name}, Gaussian inputs")


# -- helpers -------------------------------------------------------------------------


def _kind(value):
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype}"
    return type(value).__name__


def _examples(x, y):
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


def _split(x, y, train, validation, name, standardize=True):
    """Cut arrays in order into train, validation and test."""
    x, y = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y).long()
    if standardize:
        x = _standardised(x, x[:train])
    ends = (
        slice(train),
        slice(train, train + validation),
        slice(train + validation, None),
    )
    learn, check, rest = (Examples(x[part], y[part]) for part in ends)
    return Dataset(learn, check, rest, 10, name)


def _standardised(x, reference):
    """One scale for all splits: one per split would bend the test set."""
    reference = reference.double()
    mean, std = reference.mean(), reference.std(correction=0)
    return ((x.double() - mean) / std).float()


def _icosahedron():
    """Unit vectors to the 12 vertices, (12, 3)."""
    golden = (1 + np.sqrt(5)) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    vertices = [np.roll(corner, turn) for turn in (0, 1, 2) for corner in corners]
    return np.array(vertices) / np.sqrt(1 + golden**2)


def _with_test_split(x, y, test_x, test_y, validation, seed, name):
    """Split validation examples off byte images that come with a test set."""
    if not 1 <= validation < len(y):
        raise ValueError(f"validation must lie in 1..{len(y) - 1}, got {validation}")
    order = np.random.default_rng(seed).permutation(len(y))
    pixels = torch.from_numpy(x[order]).float()
    # In float32 and without a float64 copy: CIFAR-10 has 184 million pixels.
    reference = pixels[validation:]
    mean, std = reference.mean(), reference.std()
    labels = torch.from_numpy(y[order]).long()
    held_out = torch.from_numpy(np.array(test_x)).float()
    pixels, held_out = (pixels - mean) / std, (held_out - mean) / std
    return Dataset(
        Examples(pixels[validation:], labels[validation:]),
        Examples(pixels[:validation], labels[:validation]),
        Examples(held_out, torch.from_numpy(np.array(test_y)).long()),
        10,
        name,
    )


def _draw_stars_and_moons(n, quadrants, rng):
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


def _draw_patches(y, rng, size=10, fine=4):
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


def _label_draw(truth, classes, seed):
    """The order in which examples are hit, and the label that each would get."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(truth))
    return order, rng.integers(classes, size=len(truth))


def _pixels(x):
    """View inputs as (n, channels, pixels); plain features count as pixels."""
    return x.flatten(2) if x.ndim > 2 else x[:, None]


def _draw_mnist1d(seed, total):
    generator = needs("mnist1d.data")
    args = generator.get_dataset_args()
    args.seed = seed
    args.num_samples = -(-total // 10) * 10  # it draws the same number per class
    args.train_split = 1.0
    with _global_random_state():
        made = generator.make_dataset(args)
    return {"x": made["x"].astype(np.float32), "y": made["y"]}


@contextmanager
def _global_random_state():
    """Put the global random state back: the mnist1d generator seeds it."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _cache_path(cache, name):
    folder = cache or os.environ.get("FLATLAB_CACHE")
    if not folder:
        folder = needs("pooch").os_cache("flatlab")
    return Path(folder).expanduser() / name


def _check_writable(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"the cache folder {folder} cannot be written ({error.strerror}): set "
            "FLATLAB_CACHE, or the argument cache, to a folder that can"
        ) from error


def _read_npz(path):
    """Arrays of a cached file, or None where there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {"x": stored["x"], "y": stored["y"]}
    except FileNotFoundError:
        return None
    except Exception:  # a damaged archive raises many things; it is made anew
        return None


def _write_npz(path, **arrays):
    """Write at once or not at all: a reader never sees half a file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            np.savez(file, **arrays)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            file.close()
            os.unlink(file.name)
            raise


def _fetch(name, base_url, checksum, cache):
    """Download a file into the cache unless it is there already and as it should be."""
    pooch = needs("pooch")
    path = _cache_path(cache, name)
    if path.exists() and pooch.hashes.hash_matches(str(path), checksum):
        return path
    _check_writable(path.parent)
    url = base_url.rstrip("/") + "/" + name
    show = wanted() and find_spec("tqdm") is not None
    part = path.with_name(f"{name}.{os.getpid()}.part")
    try:
        downloader = pooch.HTTPDownloader(progressbar=show, chunk_size=1 << 16)
        try:
            downloader(url, str(part), None)
        except Exception as error:
            raise OSError(
                f"downloading {url} failed ({error}); try again, or put the file "
                f"at {path} yourself"
            ) from error
        if not pooch.hashes.hash_matches(str(part), checksum):
            found = pooch.file_hash(str(part), alg=checksum.split(":")[0])
            raise ValueError(
                f"{url} is not the file expected: its checksum is {found}, not "
                f"{checksum}. Nothing was kept."
            )
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _read_cifar(archive, name):
    """Images (n, 3, 32, 32) and labels (n,) of one file of records of 3,073 bytes."""
    records = np.frombuffer(archive.extractfile(name).read(), np.uint8)
    records = records.reshape(-1, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _read_idx(path):
    """Array of a gzipped IDX file of bytes: magic, sizes as big-endian int32, data."""
    with gzip.open(path) as file:
        content = file.read()
    ndim = content[3]
    shape = np.frombuffer(content, ">i4", ndim, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape)

import gzip
import hashlib
import http.server
import io
import itertools
import random
import tarfile
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatlab import data as d


@pytest.fixture(scope="module")
def digits():
    return d.digits()


@pytest.fixture(scope="module")
def small():
    x = torch.arange(24 * 12, dtype=torch.float32).reshape(24, 3, 2, 2)
    y = torch.arange(24) % 4
    parts = [d.Examples(x + 1000 * i, y) for i in range(3)]
    return d.Dataset(*parts, 4, "small")


# -- Examples and Dataset


def test_examples_are_picked_and_moved():
    x = torch.randn(5, 2)
    y = torch.tensor([[0, 1, 0, 1, 0], [1, 1, 1, 1, 1]])
    e = d.Examples(x, y, clean_y=y[0])
    assert len(e) == 5
    assert e.corrupted.tolist() == [[False] * 5, [True, False] * 2 + [True]]
    picked = e[torch.tensor([4, 0])]
    assert torch.equal(picked.x, x[[4, 0]])
    assert torch.equal(picked.y, y[:, [4, 0]])
    assert torch.equal(picked.clean_y, y[0, [4, 0]])
    assert len(e[x[:, 0] > x[:, 0].median()]) == 2
    moved = e.to("cpu", torch.float64)
    assert moved.x.dtype == torch.float64 and moved.y.dtype == torch.int64


@pytest.mark.parametrize(
    ("x", "y", "error", "says"),
    [
        (torch.zeros(3, 2), torch.zeros(4).long(), ValueError, r"\(3,\).*\(4,\)"),
        (torch.zeros(3), torch.zeros(3).long(), ValueError, r"\(n, \.\.\.\)"),
        (torch.zeros(0, 2), torch.zeros(0).long(), ValueError, "n >= 1"),
        (torch.zeros(3, 2), torch.zeros(3), TypeError, "int64"),
        (torch.zeros(3, 2).long(), torch.zeros(3).long(), TypeError, "floating-point"),
        (np.zeros((3, 2)), torch.zeros(3).long(), TypeError, "ndarray"),
        (torch.full((3, 2), torch.nan), torch.zeros(3).long(), ValueError, "3 of 3"),
        (torch.full((3, 2), torch.inf), torch.zeros(3).long(), ValueError, "infinite"),
    ],
)
def test_bad_examples_are_refused(x, y, error, says):
    with pytest.raises(error, match=says):
        d.Examples(x, y)


def test_one_example_is_asked_for_as_a_slice(digits):
    with pytest.raises(TypeError, match=r"\[3:4\]"):
        digits.train[3]


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_outside_the_classes_are_refused(label):
    good = d.Examples(torch.zeros(2, 1), torch.tensor([0, 2]))
    bad = d.Examples(torch.zeros(2, 1), torch.tensor([0, label]))
    with pytest.raises(ValueError, match=r"test split.*0\.\.2"):
        d.Dataset(good, good, bad, 3, "bad")


def test_splits_of_different_shape_are_refused():
    one, two = (d.Examples(torch.zeros(2, k), torch.tensor([0, 1])) for k in (1, 2))
    with pytest.raises(ValueError, match="validation"):
        d.Dataset(one, two, one, 2, "bad")


def test_subset_keeps_the_first_and_the_other_splits(digits):
    few = digits.subset(10)
    assert torch.equal(few.train.x, digits.train.x[:10])
    assert few.test is digits.test and few.validation is digits.validation
    for n in (0, 1001):
        with pytest.raises(ValueError, match=r"1\.\.1000"):
            digits.subset(n)


# -- the user's own arrays


def test_from_arrays_splits_every_example_exactly_once():
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20, dtype=np.uint8) % 3
    made = d.Dataset.from_arrays(x, y, seed=3)
    parts = [made.train, made.validation, made.test]
    assert [len(p) for p in parts] == [14, 2, 4]
    rows = torch.cat([p.x for p in parts])
    assert sorted(rows[:, 0].tolist()) == x[:, 0].tolist()
    for part in parts:
        assert torch.equal(part.y, (part.x[:, 0] / 2).long() % 3)
        assert part.x.dtype == torch.float32
    assert made.classes == 3
    again = d.Dataset.from_arrays(torch.tensor(x), torch.tensor(y), seed=3)
    assert torch.equal(again.train.x, made.train.x)
    other = d.Dataset.from_arrays(x, y, seed=4)
    assert not torch.equal(other.train.x, made.train.x)


def test_from_arrays_keeps_the_order_of_given_splits():
    x, y = torch.randn(6, 1, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    made = d.Dataset.from_arrays(
        x, y, test=(x[:2].numpy(), [4, 1]), validation=(x[2:], y[2:]), name="mine"
    )
    assert torch.equal(made.train.x, x) and torch.equal(made.train.y, y)
    assert torch.equal(made.validation.x, x[2:])
    assert made.test.y.tolist() == [4, 1]
    assert made.classes == 5 and made.name == "mine"


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"y": np.zeros(9)}, TypeError, "integer"),
        ({"y": np.zeros(8, int)}, ValueError, r"\(9,\)"),
        ({"y": np.zeros((9, 1), int)}, ValueError, r"\(9, 1\)"),
        ({"x": np.zeros((9, 2), complex)}, TypeError, "real"),
        ({"x": np.full((9, 2), np.nan)}, ValueError, "NaN"),
        ({"x": np.full((9, 2), 1e300)}, ValueError, "infinite"),
        ({"y": np.arange(9), "classes": 5}, ValueError, "5 classes"),
        ({"y": np.arange(9) - 1}, ValueError, "-1"),
        ({"test": 1.5}, ValueError, "fraction"),
        ({"test": 0.01}, ValueError, "too few"),
        ({"test": 0.6, "validation": 0.4}, ValueError, "too few"),
    ],
)
def test_bad_arrays_are_refused(change, error, says):
    given = {"x": np.zeros((9, 2)), "y": np.zeros(9, int)} | change
    with pytest.raises(error, match=says):
        d.Dataset.from_arrays(given.pop("x"), given.pop("y"), **given)


# -- digits and mnist1d


SIZES = {"train": 10, "validation": 10, "test": 10}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder that is not there yet."""
    folder = tmp_path / "new" / "folder"
    monkeypatch.setenv("FLATLAB_CACHE", str(folder))
    return folder


def test_digits_hold_each_image_of_scikit_learn_once():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    plain = d.digits(seed=1, standardize=False)
    parts = [plain.train, plain.validation, plain.test]
    assert [len(p) for p in parts] == [1000, 297, 500]
    x = torch.cat([p.x for p in parts]).flatten(1).numpy() * 16
    y = torch.cat([p.y for p in parts]).numpy()
    assert plain.train.x.shape == (1000, 1, 8, 8)
    mine = sorted(map(tuple, np.column_stack([x, y]).astype(int).tolist()))
    theirs = np.column_stack([bunch.data, bunch.target]).astype(int).tolist()
    assert mine == sorted(map(tuple, theirs))
    assert x.min() == 0 and x.max() == 16


def test_digits_are_standardised_by_one_mean_and_deviation(digits):
    raw = d.digits(standardize=False)
    assert abs(float(digits.train.x.double().mean())) < 1e-6
    assert abs(float(digits.train.x.double().std(correction=0)) - 1) < 1e-6
    mean, std = raw.train.x.numpy().mean(), raw.train.x.numpy().std()
    np.testing.assert_allclose(
        digits.test.x.numpy(), (raw.test.x.numpy() - mean) / std, atol=1e-5
    )


def test_digits_split_depends_on_the_seed(digits):
    assert torch.equal(d.digits(seed=0).train.x, digits.train.x)
    assert not torch.equal(d.digits(seed=1).train.x, digits.train.x)


def test_mnist1d_is_the_generators_draw_and_touches_no_global_state(cache):
    from mnist1d.data import get_dataset_args, make_dataset

    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    sizes = {"train": 60, "validation": 20, "test": 115}
    made = d.mnist1d(seed=3, **sizes)
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())

    args = get_dataset_args()
    args.seed, args.num_samples = 3, 200
    theirs = make_dataset(args)
    x = np.concatenate([theirs["x"], theirs["x_test"]])[:195]
    y = np.concatenate([theirs["y"], theirs["y_test"]])[:195]
    parts = [made.train, made.validation, made.test]
    assert [len(p) for p in parts] == list(sizes.values())
    assert torch.cat([p.y for p in parts]).tolist() == y.tolist()
    mine = torch.cat([p.x for p in parts])
    assert mine.shape == (195, 1, 40)
    scaled = (x - x[:60].mean()) / x[:60].std()
    np.testing.assert_allclose(mine[:, 0].numpy(), scaled, atol=1e-5)


def test_mnist1d_is_read_from_the_cache(cache, monkeypatch):
    first = d.mnist1d(**SIZES)
    (file,) = cache.iterdir()
    monkeypatch.setattr(d, "_draw_mnist1d", lambda *_: pytest.fail("drawn again"))
    assert torch.equal(d.mnist1d(**SIZES).test.x, first.test.x)
    assert [f.name for f in cache.iterdir()] == [file.name]


def test_a_failed_write_leaves_nothing_behind(cache, monkeypatch):
    first = d.mnist1d(seed=1, **SIZES)
    stored = list(cache.iterdir())

    def fail(file, **_):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    d.mnist1d(seed=2, **SIZES)
    assert list(cache.iterdir()) == stored
    assert torch.equal(d.mnist1d(seed=1, **SIZES).train.x, first.train.x)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    monkeypatch.setenv("FLATLAB_CACHE", str(tmp_path / "first"))
    first = d.mnist1d(**SIZES)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FLATLAB_CACHE", str(tmp_path / "file" / "cache"))
    assert torch.equal(d.mnist1d(**SIZES).train.x, first.train.x)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_mnist1d_refuses_an_empty_split(split, cache):
    with pytest.raises(ValueError, match=split):
        d.mnist1d(**{split: 0})


def icosahedral_pairs(y):
    """Adjacent, distance-2 and antipodal pairs of bits, from the labels alone."""
    x = np.arange(4096)[:, None] >> np.arange(11, -1, -1) & 1
    signs = 2 * x - 1
    fourier = signs.T @ (signs * (2 * y[:, None] - 1)) / 4096
    pairs = np.triu_indices(12, 1)
    values, of_pair, counts = np.unique(
        fourier[pairs].round(9), return_inverse=True, return_counts=True
    )
    assert sorted(counts) == [6, 30, 30]
    classes = np.full((12, 12), -1)
    classes[pairs] = classes.T[pairs] = of_pair
    antipodal = int(np.argmin(counts))
    distant, adjacent = (c for c in range(3) if c != antipodal)
    assert values[adjacent] > values[distant]
    return x, [classes == c for c in (adjacent, distant, antipodal)]


def symmetries(adjacent, known=()):
    """All orders of the 12 vertices that keep neighbours neighbours."""
    i = len(known)
    if i == 12:
        return [known]
    return [
        order
        for v in set(range(12)).difference(known)
        if all(adjacent[v, known[j]] == adjacent[i, j] for j in range(i))
        for order in symmetries(adjacent, (*known, v))
    ]


def test_twelve_bits_hold_each_pattern_once_with_the_published_number_of_ones():
    data = d.twelve_bits()
    parts = (data.train, data.validation, data.test)
    assert [len(part) for part in parts] == [3482, 205, 409]
    assert data.classes == 2 and data.train.x.dtype == torch.float32
    x = torch.cat([part.x for part in parts]).long()
    number = (x * 2 ** torch.arange(11, -1, -1)).sum(1)
    assert torch.equal(number.sort().values, torch.arange(4096))
    y = torch.cat([part.y for part in parts])
    assert int(y.sum()) == 2118
    p = 2118 / 4096
    assert -p * np.log2(p) - (1 - p) * np.log2(1 - p) == pytest.approx(0.999157, 1e-6)


def test_twelve_bits_have_the_symmetries_of_the_icosahedron():
    data = d.twelve_bits()
    y = np.zeros(4096, dtype=np.int64)
    for part in (data.train, data.validation, data.test):
        number = (part.x.long() * 2 ** torch.arange(11, -1, -1)).sum(1)
        y[number] = part.y
    x, (adjacent, distant, antipodal) = icosahedral_pairs(y)
    # The same rule in integers, which no rounding touches.
    on = [np.einsum("ni,ij,nj->n", x, pairs, x) // 2 for pairs in (adjacent, distant)]
    opposite = np.einsum("ni,ij,nj->n", x, antipodal, x) // 2
    assert np.array_equal(y, 23 * x.sum(1) + on[0] - 5 * on[1] - 8 * opposite >= 99)
    found = symmetries(adjacent)
    assert len(found) == 120
    for order in found:
        moved = x[:, list(order)] @ 2 ** np.arange(11, -1, -1)
        assert np.array_equal(y[moved], y)
    # More of the bits never turns a one into a zero.
    for bit in range(12):
        assert (y[np.arange(4096) | 1 << bit] >= y).all()


def test_twelve_bits_of_lower_fractions_are_a_subset():
    few, many = d.twelve_bits(fraction=0.05), d.twelve_bits(fraction=0.45)
    assert (len(few.train), len(many.train)) == (205, 1843)
    assert torch.equal(few.train.x, many.train.x[:205])
    assert torch.equal(few.validation.x, many.validation.x)
    assert not torch.equal(few.train.x, d.twelve_bits(1, 0.05).train.x)
    for options in ({"fraction": 0}, {"fraction": 0.96}, {"validation": 0}):
        with pytest.raises(ValueError, match="leave patterns to test on"):
            d.twelve_bits(**options)


# -- downloads, from a server on this machine


@pytest.fixture
def server(tmp_path):
    """Serves the files of a dict; a file given with a length promises that length."""
    files = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content, length = files.get(self.path, (None, 0))
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    asked = []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    httpd.asked = asked
    httpd.put = lambda name, content, length=None: files.update(
        {f"/{name}": (content, len(content) if length is None else length)}
    )
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture(scope="module")
def tiny_cifar():
    """Ten records per file in the format of CIFAR-10's binary archive."""
    rng = np.random.default_rng(0)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    labels = rng.integers(10, size=(6, 10), dtype=np.uint8)
    images = rng.integers(256, size=(6, 10, 3072), dtype=np.uint8)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, y, x in zip(names, labels, images, strict=True):
            content = np.column_stack([y, x]).tobytes()
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue(), images.reshape(6, 10, 3, 32, 32), labels


@pytest.fixture
def archive(server, cache, tiny_cifar, monkeypatch):
    """That archive as the one that the server is expected to have."""
    content = tiny_cifar[0]
    monkeypatch.setattr(d, "CIFAR10_URL", f"{server.url}/")
    checksum = "sha256:" + hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(d, "CIFAR10_CHECKSUM", checksum)
    return content


ARCHIVE = "cifar-10-binary.tar.gz"


def test_cifar10_is_read_from_a_whole_archive_and_kept(
    server, cache, tiny_cifar, archive
):
    _, images, labels = tiny_cifar
    server.put(ARCHIVE, archive)
    made = d.cifar10(validation=8)
    assert [len(p) for p in (made.train, made.validation, made.test)] == [42, 8, 10]
    assert made.train.x.shape == (42, 3, 32, 32) and made.classes == 10
    assert made.test.y.tolist() == labels[5].tolist()
    assert abs(float(made.train.x.mean())) < 1e-4
    assert abs(float(made.train.x.std()) - 1) < 1e-4

    def steps(x):
        """Undo any scale: pixel values in units of their smallest difference."""
        return ((x - x.min()) * (255 / (x.max() - x.min()))).round()

    pixels = torch.cat([made.train.x, made.validation.x, made.test.x])
    ours = steps(pixels)[50:].numpy()
    np.testing.assert_array_equal(ours, images[5])
    learn = sorted(
        zip(labels[:5].ravel(), images[:5].sum((2, 3, 4)).ravel(), strict=True)
    )
    sums = steps(pixels)[:50].sum((1, 2, 3)).long().tolist()
    y = torch.cat([made.train.y, made.validation.y]).tolist()
    assert sorted(zip(y, sums, strict=True)) == [
        tuple(map(int, pair)) for pair in learn
    ]
    # a second call needs no server
    d.cifar10(validation=8)
    assert server.asked == [f"/{ARCHIVE}"]
    assert [f.name for f in cache.iterdir()] == [ARCHIVE]


def test_a_truncated_archive_is_refused(server, cache, archive):
    server.put(ARCHIVE, archive[:-50], length=len(archive))  # the connection breaks
    with pytest.raises(OSError, match="IncompleteRead"):
        d.cifar10()
    server.put(ARCHIVE, archive[:-50])  # the server itself has half a file
    with pytest.raises(ValueError, match="hash"):
        d.cifar10()
    assert list(cache.iterdir()) == []


def test_an_altered_archive_is_refused_and_one_in_the_cache_replaced(
    server, cache, archive
):
    altered = bytearray(archive)
    altered[len(altered) // 2] ^= 1
    server.put(ARCHIVE, bytes(altered))
    with pytest.raises(ValueError, match="hash"):
        d.cifar10()
    (cache / ARCHIVE).write_bytes(altered)
    server.put(ARCHIVE, archive)
    assert len(d.cifar10(validation=8).train) == 42


def test_a_missing_file_is_a_clear_error(server, cache, monkeypatch):
    monkeypatch.setattr(d, "FASHION_MNIST_URL", f"{server.url}/")
    with pytest.raises(OSError, match=r"404.*train-images"):
        d.fashion_mnist()
    assert list(cache.iterdir()) == []


def test_fashion_mnist_is_read_from_its_four_files(server, cache, monkeypatch):
    rng = np.random.default_rng(1)
    arrays = [
        rng.integers(256, size=(30, 28, 28), dtype=np.uint8),
        rng.integers(10, size=30, dtype=np.uint8),
        rng.integers(256, size=(6, 28, 28), dtype=np.uint8),
        rng.integers(10, size=6, dtype=np.uint8),
    ]
    checksums = {}
    for name, array in zip(d.FASHION_MNIST_CHECKSUMS, arrays, strict=True):
        sizes = np.array(array.shape, ">i4").tobytes()
        header = bytes([0, 0, 8, array.ndim]) + sizes
        content = gzip.compress(header + array.tobytes())
        server.put(name, content)
        checksums[name] = "md5:" + hashlib.md5(content).hexdigest()
    monkeypatch.setattr(d, "FASHION_MNIST_URL", f"{server.url}/")
    monkeypatch.setattr(d, "FASHION_MNIST_CHECKSUMS", checksums)
    made = d.fashion_mnist(validation=5)
    assert made.train.x.shape == (25, 1, 28, 28) and len(made.validation) == 5
    assert made.test.y.tolist() == arrays[3].tolist()
    mean, std = made.train.x.mean(), made.train.x.std()
    assert abs(float(mean)) < 1e-4 and abs(float(std) - 1) < 1e-4
    flat = made.test.x[:, 0].numpy()
    correlation = np.corrcoef(flat.ravel(), arrays[2].ravel().astype(float))[0, 1]
    assert correlation > 1 - 1e-9
    with pytest.raises(ValueError, match=r"1\.\.29"):
        d.fashion_mnist(validation=30)


# -- stars and moons


def quadrants(x):
    """Brightness of the quadrants: top left, top right, bottom left, bottom right."""
    return x.reshape(len(x), 2, 10, 2, 10).sum((2, 4)).flatten(1)


STARS_STAND = {
    "diagonal": [1, 2],
    "swapped": [0, 3],
    "left-right": [0, 2],
    "right-left": [1, 3],
}


@pytest.mark.parametrize("placement", STARS_STAND)
def test_stars_and_moons_stand_where_the_placement_says(placement):
    made = d.stars_and_moons(placement=placement, train=100, validation=7, test=20)
    assert [len(p) for p in (made.train, made.validation, made.test)] == [100, 7, 20]
    for split in (made.train, made.validation, made.test):
        light = quadrants(split.x)
        assert ((light > 0).sum(1) == 1).all()
        stars = torch.isin(light.argmax(1), torch.tensor(STARS_STAND[placement]))
        assert torch.equal(stars, split.y == 0)
        assert abs(int((split.y == 0).sum()) * 2 - len(split)) <= 1
    # both quadrants of a class are used alike: 25 +- 3.5 of 50 each
    counts = torch.bincount(quadrants(made.train.x).argmax(1), minlength=4)
    assert (counts > 10).all()


def test_a_random_place_says_nothing_about_the_class():
    made = d.stars_and_moons(placement="random", train=1200).train
    place = quadrants(made.x).argmax(1)
    counts = torch.stack(
        [torch.bincount(place[made.y == c], minlength=4) for c in (0, 1)]
    ).double()
    chi2 = float(((counts - 150) ** 2 / 150).sum())
    assert chi2 < 22.5  # the 99.9 % point of chi-squared with 6 degrees of freedom


def test_the_placement_moves_shapes_and_changes_nothing_else():
    options = {"seed": 3, "train": 30, "validation": 10, "test": 40}
    iid = d.stars_and_moons(**options)
    swapped = d.stars_and_moons(test_placement="swapped", **options)
    for split in ("train", "validation"):
        assert torch.equal(getattr(iid, split).x, getattr(swapped, split).x)
    assert torch.equal(iid.test.y, swapped.test.y)
    shapes = [
        part.test.x.reshape(40, 2, 10, 2, 10).sum((1, 3)) for part in (iid, swapped)
    ]
    assert torch.equal(*shapes)
    assert (quadrants(iid.test.x) * quadrants(swapped.test.x) == 0).all()
    other = d.stars_and_moons(**{**options, "seed": 4})
    assert not torch.equal(iid.train.x, other.train.x)
    assert not torch.equal(iid.train.x, iid.test.x[:30])


def test_stars_and_moons_differ_in_shape_and_not_in_brightness():
    made = d.stars_and_moons(train=1000).train
    assert made.x.shape == (1000, 1, 20, 20) and made.x.dtype == torch.float32
    assert float(made.x.min()) == 0 and float(made.x.max()) == 1
    mass = made.x.double().sum((1, 2, 3))
    stars, moons = mass[made.y == 0], mass[made.y == 1]
    error = ((stars.var() + moons.var()) / 500) ** 0.5
    assert abs(stars.mean() - moons.mean()) < 4 * error
    # area of the star polygon, 5 R r sin 36 degrees, with R uniform in 3.5..4.5
    area = 5 * 0.45 * np.sin(np.pi / 5) * (4**2 + 1 / 12)
    assert abs(float(stars.mean()) - area) < 4 * float(stars.std()) / 500**0.5
    # a star is brightest at its centre of mass, a crescent hollow next to it
    grid = torch.arange(20, dtype=torch.float64)
    image = made.x[:, 0].double()
    row = (image.sum(2) * grid).sum(1) / mass
    column = (image.sum(1) * grid).sum(1) / mass
    at = image[torch.arange(1000), row.round().long(), column.round().long()]
    assert (at[made.y == 0] == 1).all()
    spread = (
        image.sum(2) * (grid - row[:, None]) ** 2
        + image.sum(1) * (grid - column[:, None]) ** 2
    ).sum(1) / mass**2
    assert spread[made.y == 0].max() < spread[made.y == 1].min()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"placement": "top"}, "'top'.*diagonal"),
        ({"test_placement": "opposite"}, "'opposite'"),
        ({"validation": 0}, r"at least 1, got \(600, 0, 1000\)"),
    ],
)
def test_bad_stars_and_moons_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        d.stars_and_moons(**options)


# -- corruptions


def test_corruption_touches_train_labels_only(digits):
    noisy = d.corrupt_labels(digits, 0.4, seed=0)
    assert torch.equal(noisy.train.clean_y, digits.train.y)
    assert torch.equal(noisy.train.x, digits.train.x)
    assert noisy.test is digits.test and noisy.validation is digits.validation
    assert not digits.train.corrupted.any()


def test_uniform_corruption_leaves_a_tenth_of_replaced_labels_right():
    x = torch.zeros(20000, 1)
    y = torch.arange(20000) % 10
    one = d.Examples(x, y)
    data = d.Dataset(one, one, one, 10, "many")
    wrong = d.corrupt_labels(data, 1.0).train.corrupted.double().mean()
    assert abs(float(wrong) - 0.9) < 4 * (0.09 / 20000) ** 0.5


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=4),
    st.integers(0, 2**31),
)
def test_corruption_is_nested_and_the_same_per_member(small, fractions, seed):
    fractions = sorted(fractions)
    noisy = d.corrupt_labels(small, torch.tensor(fractions), seed=seed)
    y, truth = noisy.train.y, noisy.train.clean_y
    assert y.shape == (len(fractions), 24)
    for low, high in itertools.pairwise(y):
        hit = low != truth
        assert torch.equal(low[hit], high[hit])
    for row, p in zip(y, fractions, strict=True):
        alone = d.corrupt_labels(small, p, seed=seed).train.y
        assert torch.equal(row, alone)


def test_corruption_takes_a_seed_per_member(small):
    noisy = d.corrupt_labels(small, 0.5, seed=range(3)).train
    assert noisy.y.shape == (3, 24)
    for member, seed in zip(noisy.y, range(3), strict=True):
        assert torch.equal(member, d.corrupt_labels(small, 0.5, seed=seed).train.y)
    assert not torch.equal(noisy.y[0], noisy.y[1])
    both = d.corrupt_labels(small, [0.0, 1.0], seed=[4, 5]).train
    assert not both.corrupted[0].any() and both.corrupted[1].any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fraction": -0.1}, r"\[0, 1\]"),
        ({"fraction": 1.1}, r"\[0, 1\]"),
        ({"fraction": float("nan")}, r"\[0, 1\]"),
        ({"fraction": [0.1, 0.2], "seed": range(3)}, "shape mismatch"),
    ],
)
def test_bad_corruptions_are_refused(small, options, says):
    with pytest.raises(ValueError, match=says):
        d.corrupt_labels(small, **options)


def test_labels_per_member_are_not_corrupted_twice(small):
    twice = d.corrupt_labels(small, [0.1, 0.2])
    with pytest.raises(ValueError, match="per member already"):
        d.corrupt_labels(twice, 0.1)


def test_shuffled_pixels_are_one_permutation_of_all_splits(small):
    made = d.shuffled_pixels(small, seed=2)
    pixels = small.train.x.flatten(2)
    first = made.train.x.flatten(2)[0, 0]
    order = [pixels[0, 0].tolist().index(v) for v in first.tolist()]
    assert order != [0, 1, 2, 3] and sorted(order) == [0, 1, 2, 3]
    for split in ("train", "validation", "test"):
        expected = getattr(small, split).x.flatten(2)[..., order]
        assert torch.equal(getattr(made, split).x.flatten(2), expected)


def test_random_pixels_are_a_fresh_permutation_per_image(digits, small):
    made = d.random_pixels(small, seed=1)
    orders = set()
    for split in ("train", "validation", "test"):
        before = getattr(small, split).x.flatten(2)
        after = getattr(made, split).x.flatten(2)
        assert torch.equal(after.sort(-1).values, before)
        order = after - before[..., :1]
        # the channels of a pixel move together
        assert torch.equal(order[:, 0], order[:, 2])
        orders |= {tuple(row) for row in order[:, 0].tolist()}
    assert len(orders) > 12  # of the 24 there are


def test_gaussian_inputs_match_mean_and_variance():
    plain = d.digits(standardize=False)
    noise = d.gaussian_inputs(plain, seed=0).train.x.double()
    mean, std = plain.train.x.double().mean(), plain.train.x.double().std()
    error = float(std) / noise.numel() ** 0.5
    assert abs(float(noise.mean() - mean)) < 4 * error
    assert abs(float(noise.std() - std)) < 4 * error
    kurtosis = ((noise - noise.mean()) ** 4).mean() / noise.var() ** 2
    assert abs(float(kurtosis) - 3) < 4 * (24 / noise.numel()) ** 0.5


@pytest.mark.parametrize("corrupt", [d.random_pixels, d.gaussian_inputs])
def test_input_corruptions_keep_labels_and_depend_on_the_seed(small, corrupt):
    one, again, other = (corrupt(small, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.train.x, again.train.x)
    assert not torch.equal(one.train.x, other.train.x)
    assert torch.equal(one.train.y, small.train.y)
    assert one.train.x.dtype == torch.float32

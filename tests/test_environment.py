import pytest
import torch

from flatlab import environment as env


def test_device_is_the_best_there_is(monkeypatch):
    monkeypatch.delenv("FLATLAB_DEVICE", raising=False)
    for cuda, mps, best in [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda c=cuda: bool(c))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda m=mps: bool(m))
        assert env.device() == torch.device(best)


def test_device_can_be_overridden(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("cpu", "cuda", "cuda:1"):
        monkeypatch.setenv("FLATLAB_DEVICE", name)
        assert env.device() == torch.device(name)


@pytest.mark.parametrize("name", ["abacus", "cuda:2", "mps", "meta"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setenv("FLATLAB_DEVICE", name)
    with pytest.raises(ValueError, match=f"FLATLAB_DEVICE is '{name}'"):
        env.device()


def test_float64_is_refused_where_the_device_lacks_it():
    with pytest.raises(ValueError, match=r"float64.*float32"):
        env.check_dtype(torch.float64, "mps")
    env.check_dtype(torch.float32, "mps")
    env.check_dtype(torch.float64, "cpu")
    env.check_dtype(None, "mps")


def test_scaled_follows_the_environment(monkeypatch):
    monkeypatch.delenv("FLATLAB_SCALE", raising=False)
    assert env.scaled(smoke=1, laptop=2, gpu=3) == 2
    for name, value in [("smoke", 1), ("laptop", 2), ("gpu", 3)]:
        monkeypatch.setenv("FLATLAB_SCALE", name)
        assert env.scale() == name
        assert env.scaled(smoke=1, laptop=2, gpu=3) == value


def test_an_unknown_scale_is_refused(monkeypatch):
    monkeypatch.setenv("FLATLAB_SCALE", "huge")
    with pytest.raises(ValueError, match=r"'huge'.*smoke, laptop, gpu"):
        env.scaled(smoke=1, laptop=2, gpu=3)


def test_a_missing_package_is_named_with_what_installs_it():
    import json

    assert env.needs("json") is json
    with pytest.raises(ImportError, match=r'no_such_package.*"flatlab\[study\]"'):
        env.needs("no_such_package", "study")

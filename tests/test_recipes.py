"""SAM in other people's loops, as the page *Measure your own model* prints them."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import flatlab as fl

PAGE = Path(__file__).parents[1] / "book" / "own_model.ipynb"
pytestmark = pytest.mark.filterwarnings("ignore")


def recipe(word, **names):
    """Run the block of the page that holds a word; the names that it leaves."""
    cells = json.loads(PAGE.read_text("utf-8"))["cells"]
    (cell,) = (c for c in cells if c["id"] == "recipes")
    blocks = re.findall(r"^```python\n(.*?)^```", "".join(cell["source"]), re.S | re.M)
    (block,) = (b for b in blocks if word in b)
    names = {"torch": torch, "F": F, "fl": fl, **names}
    exec(compile(block, "own_model.ipynb", "exec"), names)
    return names


def one_step(model, x, y):
    """A step of SAM on SGD by hand."""
    F.cross_entropy(model(x), y).backward()
    before = [p.detach().clone() for p in model.parameters()]
    gradient = [p.grad.clone() for p in model.parameters()]
    length = torch.cat([g.flatten() for g in gradient]).norm()
    with torch.no_grad():
        for p, g in zip(model.parameters(), gradient, strict=True):
            p.add_(g, alpha=0.05 / length.item())
            p.grad = None
    F.cross_entropy(model(x), y).backward()
    pairs = zip(before, model.parameters(), strict=True)
    return [b - 0.1 * p.grad for b, p in pairs]


def task():
    torch.manual_seed(0)
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    return nn.Linear(4, 3), x, y


def check(model, wanted):
    for p, value in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.detach(), value)


def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")
    model, x, y = task()
    twin, _, _ = task()
    module = recipe("Lightning", lightning=lightning)["Digits"](model)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 8)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, data)
    check(model, one_step(twin, x, y))


class Classifier(nn.Module):
    """A model as the Trainer wants it."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, labels):
        logits = self.layer(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_trainer_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    layer, x, y = task()
    twin, _, _ = task()
    arguments = transformers.TrainingArguments(
        output_dir=tmp_path,
        max_steps=1,
        per_device_train_batch_size=8,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    rows = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
    names = {"transformers": transformers, "arguments": arguments, "data": rows}
    made = recipe("SAMTrainer", model=Classifier(layer), **names)
    made["trainer"].train()
    check(layer, one_step(twin, x, y))


def test_grad_scaler():
    model, x, y = task()
    twin, _, _ = task()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    names = {"model": model, "x": x, "y": y, "device": torch.device("cpu")}
    names["sam"] = fl.optim.SAM(base, fl.ball(0.05), module=model)
    recipe("scaler", scaler=torch.amp.GradScaler("cpu"), **names)
    for p, value in zip(model.parameters(), one_step(twin, x, y), strict=True):
        torch.testing.assert_close(p.detach(), value, rtol=0.01, atol=1e-3)

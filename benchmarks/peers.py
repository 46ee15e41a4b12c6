"""The same network and loss as each peer wants it."""

import contextlib

from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.subjects import Subject


def parameters(subject: Subject) -> list[Tensor]:
    return [p for p in subject.module.parameters() if p.requires_grad]


def curvlinops_hessian(subject: Subject, data):
    import curvlinops

    return curvlinops.HessianLinearOperator(
        subject.module,
        nn.CrossEntropyLoss(),
        parameters(subject),
        data,
        check_deterministic=False,
    )


def pyhessian(subject: Subject, **data):
    """PyHessian, with gradients cleared first: it adds to what it finds there."""
    from pyhessian import hessian

    subject.module.zero_grad()
    return hessian(
        subject.module, nn.CrossEntropyLoss(), cuda=subject.x.is_cuda, **data
    )


def eigenthings(subject: Subject, data):
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(subject.module, data, supervised_loss(F.cross_entropy))


def landscaper(subject: Subject):
    from landscaper.hessian import PyHessian

    data = [(subject.x, subject.y)]
    return PyHessian(subject.module, F.cross_entropy, data, subject.x.device.type)


def nngeom(subject: Subject):
    """Their model and its batch."""
    from nngeom.models import Model

    def loss(module, batch):
        return F.cross_entropy(module(batch[0]), batch[1])

    return Model(subject.module, loss), (subject.x, subject.y)


@contextlib.contextmanager
def twice_differentiable():
    """Attention by the kernel that has second derivatives; ours chooses it itself."""
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        yield

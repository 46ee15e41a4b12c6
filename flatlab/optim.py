"""SAM and ASAM as a ``torch.optim.Optimizer`` for anyone's training loop."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.nn.parallel import DistributedDataParallel
from torch.optim import LBFGS, Optimizer

from flatlab.neighbourhoods import Neighbourhood, ball, check_set
from flatlab.network import Layout

_ONES = ball(1.0).scale
# squared lengths above this and below its inverse lose nothing in float32
_SMALL = 1e-30


@contextmanager
def _kept_buffers(module: nn.Module | None) -> Iterator[None]:
    """Put all buffers of a module back on leaving, also after an exception.

    Running statistics, spectral norm's vectors, counters: whatever a forward pass in
    training mode writes down.
    """
    buffers = {} if module is None else dict(module.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    try:
        yield
    finally:
        for name, buffer in buffers.items():
            owner, _, own = name.rpartition(".")
            assert module is not None
            if module.get_buffer(name) is not buffer:  # replaced, not written to
                setattr(module.get_submodule(owner), own, buffer)
            buffer.copy_(before[name])


class SAM(Optimizer):
    """Sharpness-aware minimisation around any optimizer, over any neighbourhood.

    Each step takes the gradient not at w but at w + ε, where ε maximises the linearised
    loss over a neighbourhood of w, and hands it to the base optimizer, which moves w.
    ``ball(rho)`` makes it SAM, ``adaptive_ball(rho)`` ASAM::

        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = SAM(base, ball(0.05), module=model)
        for x, y in loader:
            def closure():
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                return loss

            optimizer.step(closure)

    The parameter groups, the state and the ``state_dict`` are those of the base
    optimizer: a scheduler may be given either of the two, a checkpoint resumes with
    momentum, and one made without SAM can be taken up with it.

    Mixed precision: run the forward pass of the closure in bfloat16 autocast. Float16
    needs a ``GradScaler``: ``backward`` says how.

    Under ``DistributedDataParallel``, given as ``module``, the first pass is not
    synchronised: every rank climbs along the gradient of its own part of the batch,
    as in the SAM paper (m-sharpness with one part per rank), and the second gradient
    is averaged, so that all ranks take the same step. Without ``module`` both
    gradients are averaged and all ranks climb alike.

    Each step waits twice for the device, to see whether the gradients are finite.

    Args:
        base_optimizer: made from the parameters, in as many groups as wanted. Frozen
            parameters and those without a gradient are not perturbed.
        neighbourhood: the ``Neighbourhood`` to search.
        module: the model. Needed to update running statistics and all other buffers
            only once per step, and to know which parameters form a layer.
        when: the steps (first, end) in which it climbs, counted from 0 and without the
            end: (0, 1000) is the first thousand. All others are the base optimizer's
            own, at half the cost. The count is kept in the first parameter group, so
            that a checkpoint goes on with it.

    Reference: Foret et al. (2021), equations 2 and 3; Kwon et al. (2021).
    """

    # GradScaler then announces itself by an attribute ``grad_scale``, which `step`
    # refuses; otherwise the scaled gradient of the second pass would go unnoticed
    _step_supports_amp_scaling = True

    def __init__(
        self,
        base_optimizer: Optimizer,
        neighbourhood: Neighbourhood,
        module: nn.Module | None = None,
        when: tuple[float, float] = (0, math.inf),
    ):
        if not isinstance(base_optimizer, Optimizer):
            raise TypeError(
                f"base_optimizer is {base_optimizer!r}, expected an optimizer made "
                "from the parameters, such as torch.optim.SGD(model.parameters(), 0.1)"
            )
        if isinstance(base_optimizer, LBFGS | SAM):
            raise TypeError(
                f"{type(base_optimizer).__name__} needs a closure of its own, so it "
                "cannot be the base optimizer"
            )
        check_set(neighbourhood)
        if not 0 <= when[0] < when[1]:
            raise ValueError(f"when is {when}, expected two steps, 0 <= first < end")
        self.base, self.neighbourhood = base_optimizer, neighbourhood
        self.module, self.when = module, when
        self.skipped, self.defaults = 0, base_optimizer.defaults
        # an optimizer without state of its own is set up like an unpickled one
        self.__setstate__(self.__getstate__())
        self._parameters()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__({**state, "_laid_out": [], "_layout": None})

    def __getstate__(self) -> dict:
        names = ("base", "neighbourhood", "module", "when", "skipped", "defaults")
        return {name: self.__dict__[name] for name in names}

    def __repr__(self) -> str:
        return f"SAM({self.base!r}, {self.neighbourhood!r})"

    # ------------------------------------------------- what the base optimizer holds

    @property
    def param_groups(self) -> list[dict]:
        """The parameter groups of the base optimizer."""
        return self.base.param_groups

    @property
    def state(self) -> dict:
        """The state of the base optimizer."""
        return self.base.state

    def state_dict(self) -> dict:
        """The base optimizer's ``state_dict``; SAM has nothing to add."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict) -> None:
        """Load the state of a SAM optimizer, or of its base optimizer."""
        self.base.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict) -> None:
        """Add a group to the base optimizer."""
        self.base.add_param_group(param_group)
        self._parameters()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        if not set_to_none:
            return super().zero_grad(set_to_none=False)
        # closures call this twice in a step, and torch's own takes as long as a layer
        for p in self._all():
            p.grad = None

    # --------------------------------------------------------------------- stepping

    @torch.no_grad()
    def step(
        self, closure: Callable[[], Tensor] | Sequence[Callable[[], Tensor]]
    ) -> Tensor:
        """Take one step.

        Gradients are cleared before every call of a closure, so that one written for
        ``torch.optim.LBFGS`` (``zero_grad``, loss, ``backward``, return the loss) works
        as well as one without ``zero_grad``. It may accumulate several ``backward``
        calls. Between and after the calls the weights are put back bit for bit, also
        when a closure raises.

        If a gradient is not finite, nothing moves and ``skipped`` counts one more.

        Args:
            closure: computes the loss, calls ``backward`` and returns the loss; called
                twice, at w and at w + ε. A list of closures, one per micro-batch, gives
                m-sharpness: every micro-batch has its own ε, from its own gradient at
                w, and the mean of their second gradients is taken.

        Returns:
            The loss at w, as the closure gave it; of several, their mean.
        """
        if hasattr(self, "grad_scale"):
            raise RuntimeError(
                "SAM computes its second gradient inside step(), where a GradScaler "
                "cannot unscale it. Call optimizer.backward(closure), then "
                "scaler.step(optimizer.base) and scaler.update(); or use bfloat16 "
                "autocast without a scaler"
            )
        loss, finite = self._backward(closure)
        if finite:
            self.base.step()
        else:
            self.zero_grad()
        return loss

    @torch.no_grad()
    def backward(
        self, closure: Callable[[], Tensor] | Sequence[Callable[[], Tensor]]
    ) -> Tensor:
        """Leave the gradient at w + ε in ``.grad``, and take no step.

        For loops that step by themselves, such as those of a ``GradScaler`` (its scale
        does not change the direction of ε) or of the ``Trainer`` of transformers::

            sam.backward(closure)  # in which scaler.scale(loss).backward()
            scaler.step(sam.base)
            scaler.update()

        A gradient that is not finite at w is left as it is, for the scaler to see.
        Takes and returns what ``step`` does.
        """
        return self._backward(closure)[0]

    def _backward(self, closure: Any) -> tuple[Tensor, bool]:
        """The loss at w; whether the gradient that is left in ``.grad`` is finite."""
        closures = _callables(closure)
        share, parameters = 1 / len(closures), self._parameters()
        average: list[Tensor | None] = [None] * len(parameters)
        losses, climbs, finite = [], self._climbs(), False
        for compute in closures:
            loss, finite = self._two_passes(parameters, compute, climbs)
            losses.append(loss)
            if not finite:
                self.skipped += 1
                break
            if len(closures) == 1:
                break
            for i, p in enumerate(parameters):
                if p.grad is not None:
                    part, sofar = p.grad * share, average[i]
                    average[i] = part if sofar is None else sofar + part
        else:
            for p, gradient in zip(parameters, average, strict=True):
                p.grad = gradient
        total: Any = sum(losses[1:], losses[0])
        return (total / len(losses) if len(losses) > 1 else total), finite

    def _climbs(self) -> bool:
        """Whether this step is one of SAM's; counts it."""
        if self.when == (0, math.inf):
            return True
        group = self.param_groups[0]
        step = group.get("sam_step", 0)
        group["sam_step"] = step + 1
        return self.when[0] <= step < self.when[1]

    def _two_passes(
        self, parameters: list[Tensor], compute, climbs: bool
    ) -> tuple[Tensor, bool]:
        """Leave the gradient at w + ε in ``.grad``, at w for a step that climbs not.

        Returns the loss at w, and whether all is finite.
        """
        module = self.module
        ranks = isinstance(module, DistributedDataParallel) and climbs and module
        alone = bool(ranks)
        with ranks.no_sync() if ranks else nullcontext():
            loss = self._call(compute)
        if all(p.grad is None for p in parameters):
            raise ValueError("the closure left no gradient: does it call backward()?")
        gradients = _gradients(parameters)
        gradient = _flatten_dense_tensors(gradients)
        squared = torch.dot(gradient, gradient).item()
        finite = _finite(gradient, squared)
        if not climbs or (not finite and not alone):
            return loss, finite
        before = [p.clone() for p in parameters]
        try:
            # other ranks wait for one whose gradient is not finite: it goes on without
            # climbing, and all judge by the average
            if finite:
                self._climb(parameters, gradients, gradient, squared)
            del gradients, gradient
            # autocast around the whole step would go on with the weights it has cast
            torch.clear_autocast_cache()
            with _kept_buffers(self.module):
                self._call(compute)
        finally:
            # a copy and no subtraction, which would round
            torch._foreach_copy_(parameters, before)
            torch.clear_autocast_cache()
        gradient = _flatten_dense_tensors(_gradients(parameters))
        return loss, _finite(gradient, torch.dot(gradient, gradient).item())

    def _climb(self, parameters, gradients, gradient: Tensor, squared: float) -> None:
        """Add to the parameters the ε that is steepest for the gradient.

        It comes twice, as a list and as one vector, with its squared length.
        """
        around = self.neighbourhood
        if around.p == 2 and around.scale == _ONES and _SMALL < squared < 1 / _SMALL:
            # the same ε, without ever writing it down
            factor = float(around.radius) / math.sqrt(squared)
            torch._foreach_add_(parameters, gradients, alpha=factor)
            return
        w = _flatten_dense_tensors([p.detach() for p in parameters])
        layout = self._layout = self._layout.to(w.device)
        epsilon = around.at(w, layout).steepest(gradient)
        parts = _unflatten_dense_tensors(epsilon, parameters)
        torch._foreach_add_(parameters, parts)

    def _call(self, compute) -> Tensor:
        self.zero_grad()
        with torch.enable_grad():
            return compute()

    # -------------------------------------------------------------------- structure

    def _all(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _parameters(self) -> list[Tensor]:
        """The trained parameters, with their layout up to date."""
        parameters = [p for p in self._all() if p.requires_grad]
        if not parameters:
            raise ValueError("no parameter of the optimizer has requires_grad=True")
        if [*map(id, parameters)] != [*map(id, self._laid_out)]:
            _check_parameters(parameters)
            self._layout = Layout.of(self._named(parameters))
            self._laid_out = parameters
        return parameters

    def _named(self, parameters: list[Tensor]) -> dict[str, Tensor]:
        if self.module is None:
            if getattr(self.neighbourhood.scale, "by", None) == "layer":
                raise ValueError(
                    "the neighbourhood is scaled by layer: pass module=model, which "
                    "tells the parameters that form one"
                )
            # names without a common owner: every parameter is a layer of its own
            return {f"{i}.parameter": p for i, p in enumerate(parameters)}
        names = {id(p): name for name, p in self.module.named_parameters()}
        strangers = sum(id(p) not in names for p in parameters)
        if strangers:
            raise ValueError(
                f"{strangers} of the {len(parameters)} parameters of the optimizer are "
                "not in module: pass the model whose parameters it trains"
            )
        return {names[id(p)]: p for p in parameters}


def _check_parameters(parameters: list[Tensor]) -> None:
    sharded = {type(p).__name__ for p in parameters} & {"DTensor", "FlatParameter"}
    if sharded:
        raise TypeError(
            f"the parameters are sharded ({', '.join(sharded)}), and SAM needs whole "
            "gradients for the length of ε: use DistributedDataParallel"
        )
    if any(p.is_complex() for p in parameters):
        raise TypeError(
            "a parameter is complex, and SAM's neighbourhoods are sets of real "
            "vectors: keep its real and imaginary part as two parameters, or as one "
            "with torch.view_as_real"
        )


def _callables(closures: Any) -> list[Callable[[], Tensor]]:
    closures = list(closures) if isinstance(closures, Sequence) else [closures]
    if not closures or not all(callable(c) for c in closures):
        raise TypeError(
            "step takes a closure that computes the loss, calls backward and returns "
            f"the loss, or a list of such, got {closures}"
        )
    return closures


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """All gradients, zeros for those that are missing."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    if any(g.is_sparse for g in gradients):
        raise TypeError(
            "a gradient is sparse, which SAM does not support: use "
            "Embedding(..., sparse=False)"
        )
    return gradients


def _finite(vector: Tensor, squared: float) -> bool:
    """Whether all entries are finite, given the vector's squared length."""
    if _SMALL < squared < 1 / _SMALL:
        return True
    # squares may overflow, extremes cannot; both are NaN if an entry is
    return all(math.isfinite(extreme.item()) for extreme in torch.aminmax(vector))

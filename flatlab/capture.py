"""Many launches of a GPU as one: a CUDA graph, where one can be recorded.

No card has run this yet. What a CPU can show is tested there: that a recorded step,
played again operation by operation in the same memory, gives the values of a plain one.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor


class Replay:
    """Calls of one function of tensors, from a graph after the first.

    The function gives one tensor, which the next call overwrites, and changes nothing.
    What it reads besides its inputs has to stay alive and in its place, where it may
    change: whether it did is seen at the second call, which is made in both ways. Not
    on CUDA, for inputs of other shapes than the first, and where the function cannot be
    recorded (it waits for a number from the device, say), every call is a plain one.
    """

    def __init__(self) -> None:
        self.shapes: list[torch.Size] | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.played = 0

    def __call__(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``function(*inputs)``."""
        if inputs[0].device.type != "cuda":
            return function(*inputs)
        shapes = [t.shape for t in inputs]
        if self.shapes is None:
            self.shapes, self.inputs = shapes, [t.clone() for t in inputs]
            try:
                with torch.cuda.device(inputs[0].device):
                    self.graph = self._recorded(function)
            except RuntimeError:
                self.inputs.clear()
        if self.graph is None or shapes != self.shapes:
            return function(*inputs)
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        self.graph.replay()
        self.played += 1
        if self.played == 2:
            plain = function(*inputs)
            about = 0.01 * float(plain.abs().nan_to_num().max())
            if not torch.allclose(self.result, plain, 0.01, about, equal_nan=True):
                warnings.warn(
                    "a recorded step gave other values than a plain one, and is not "
                    "played again",
                    RuntimeWarning,
                    stacklevel=2,
                )
                self.graph = None
                return plain
        return self.result

    def _recorded(self, function: Callable[..., Tensor]) -> torch.cuda.CUDAGraph:
        """The graph of a call, after a few on another stream that fill caches."""
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(3):
                function(*self.inputs)
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(here), torch.cuda.graph(graph):  # back here on errors
            self.result = function(*self.inputs)
        return graph

"""Families of operators beyond the paper's five kernels, to see that none is slower than MetaSchedule's best.

    reasonc compare $(python benchmarks/families.py) --methods evolutionary,expert --samples 64 --repeats 1

Without anything else this prints the workloads for that command. The definitions are TVM's own operators (topi),
float32, with constant weights where a model has them, each small enough for a run to take well under a minute on two
cores. `other_kernels.py` has further ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reasoning_compiler.machine import import_tvm

tvm = import_tvm()
from tvm import te, topi  # noqa: E402

FAMILIES: dict[str, Callable[[], Any]] = {}


def family(define: Callable[[], tuple[list[Any], Any, list[int]]]) -> Callable[[], Any]:
    """Turns a definition (inputs, output, positions of the constants) into a function that makes a PrimFunc."""

    def make() -> Any:
        inputs, output, weights = define()
        func = te.create_prim_func([*inputs, output]).with_attr("global_symbol", define.__name__)
        return func.with_attr("layout_free_buffers", weights) if weights else func

    make.__name__, make.__doc__ = define.__name__, define.__doc__
    FAMILIES[define.__name__] = make
    return make


def _of(name: str, *shape: int) -> Any:
    return te.placeholder(shape, "float32", name=name)


@family
def conv1d():
    """A 1-D convolution over a sequence, as in speech models."""
    x, w = _of("X", 1, 1024, 128), _of("W", 5, 128, 128)
    return [x, w], topi.nn.conv1d_nwc(x, w, 1, 2), [1]


@family
def conv2d():
    """A strided 2-D convolution, as between a network's stages."""
    x, w = _of("X", 1, 56, 56, 64), _of("W", 3, 3, 64, 128)
    return [x, w], topi.nn.conv2d_nhwc(x, w, 2, 1, 1), [1]


@family
def conv2d_dilated():
    """A dilated 2-D convolution, as in segmentation."""
    x, w = _of("X", 1, 28, 28, 128), _of("W", 3, 3, 128, 128)
    return [x, w], topi.nn.conv2d_nhwc(x, w, 1, 2, 2), [1]


@family
def conv2d_grouped():
    """A grouped 2-D convolution, eight groups."""
    x, w = _of("X", 1, 28, 28, 256), _of("W", 3, 3, 32, 256)
    return [x, w], topi.nn.group_conv2d_nhwc(x, w, 1, 1, 1, 8), [1]


@family
def conv2d_depthwise():
    """A depthwise 2-D convolution, as in mobile networks."""
    x, w = _of("X", 1, 56, 56, 192), _of("W", 3, 3, 192, 1)
    return [x, w], topi.nn.depthwise_conv2d_nhwc(x, w, 1, 1, 1), [1]


@family
def conv2d_transposed():
    """A transposed 2-D convolution that doubles height and width."""
    x, w = _of("X", 1, 128, 16, 16), _of("W", 128, 64, 4, 4)
    return [x, w], topi.nn.conv2d_transpose_nchw(x, w, (2, 2), (1, 1), "float32", (0, 0)), [1]


@family
def conv3d():
    """A 3-D convolution, as in video models."""
    x, w = _of("X", 1, 8, 28, 28, 32), _of("W", 3, 3, 3, 32, 64)
    return [x, w], topi.nn.conv3d_ndhwc(x, w, 1, 1, 1, 1), [1]


@family
def batched_matmul():
    """A batch of matrix products without constants."""
    a, b = _of("A", 16, 192, 96), _of("B", 16, 96, 320)
    return [a, b], topi.nn.batch_matmul(a, b, transpose_b=False), []


@family
def matrix_vector():
    """A matrix times a vector, as in decoding: bound by memory."""
    x, w = _of("X", 1, 2048), _of("W", 2048, 4096)
    return [x, w], topi.nn.matmul(x, w), [1]


@family
def layer_norm():
    """A layer normalisation over the last axis."""
    x, gamma, beta = _of("X", 1024, 1024), _of("gamma", 1024), _of("beta", 1024)
    return [x, gamma, beta], topi.nn.layer_norm(x, gamma, beta, [1]), []


@family
def softmax():
    """A softmax over the last axis."""
    x = _of("X", 1024, 1024)
    return [x], topi.nn.softmax(x, axis=-1), []


@family
def max_pool():
    """A 3x3 maximum pooling with stride 2."""
    x = _of("X", 1, 64, 112, 112)
    return [x], topi.nn.pool2d(x, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "max"), []


globals().update(FAMILIES)

if __name__ == "__main__":
    print(*(f"{Path(__file__)}:{name}" for name in FAMILIES))

"""One contestant of `peers.py`: a library's own best way to run a kernel, in a process of its own.

    python benchmarks/contestant.py NAME VARIANT

It imports nothing of this package, only numpy and what it stands for (torch, onnx and onnxruntime, openvino, or TVM's
runtime for a tuned library). Requests and answers are lines of JSON. The first request describes the kernel, the number
of threads and the folder with its inputs; the output is written to that folder, for the referee to check. Every later
request is a number of calls, and its answer is their seconds.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np


def main() -> None:
    """Serves requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(value):
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    name, variant = sys.argv[1:]
    task = json.loads(sys.stdin.readline())
    folder = Path(task["folder"])
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS"):
        os.environ[variable] = str(task["threads"])
    try:
        inputs = [np.load(folder / f"in{i}.npy") for i in range(task["num_inputs"])]
        run, read, version = {"ours": ours, "torch": torch_, "onnxruntime": onnxruntime_, "openvino": openvino_}[name](
            task, inputs, variant
        )
        run()
        output = folder / f"{name}-{variant}.npy"
        np.save(output, read())
    except Exception as error:  # a peer that cannot run a kernel says so, whatever it raises
        answer({"error": f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"})
        return
    answer({"output": str(output), "version": version})
    for line in sys.stdin:
        timings = []
        for _ in range(int(line)):
            started = time.perf_counter()
            run()
            timings.append(time.perf_counter() - started)
        answer(timings)


def ours(task, inputs, variant):
    """Returns how a tuned library is run with TVM's runtime alone."""
    import tvm

    library = tvm.runtime.load_module(task["library"])
    signature = json.loads(Path(task["library"]).with_suffix(".json").read_text(encoding="utf-8"))
    given, passed = iter(inputs), []
    for argument in signature["arguments"]:
        if argument["role"] == "output":
            passed.append(tvm.runtime.empty(argument["shape"], argument["dtype"]))
            continue
        tensor = tvm.runtime.tensor(next(given))
        if argument["packer"] is not None:
            packed = tvm.runtime.empty(argument["packed_shape"], argument["packed_dtype"])
            library[argument["packer"]](tensor, packed)
            tensor = packed
        passed.append(tensor)
    main_function = library["main"]
    return lambda: main_function(*passed), passed[-1].numpy, tvm.__version__


def torch_(task, inputs, variant):
    """Returns how PyTorch runs the kernel: eager, with oneDNN's own layouts, or compiled with frozen weights."""
    import torch

    torch.set_num_threads(task["threads"])
    torch.set_grad_enabled(False)
    model, args, undo = torch_model(task, [torch.from_numpy(array) for array in inputs])
    model = model.eval()
    if variant == "onednn":
        from torch.utils import mkldnn

        if not any(isinstance(m, torch.nn.Linear | torch.nn.Conv2d) for m in model.modules()):
            raise ValueError("nothing to lay out")
        packed = mkldnn.to_mkldnn(model)
        args = [arg.to_mkldnn() for arg in args]
        model = lambda *a: packed(*a).to_dense()  # noqa: E731
    elif variant == "compile":
        import torch._inductor.config as config

        config.freezing = True
        model = torch.compile(model, mode="max-autotune", fullgraph=True)
    elif variant != "eager":
        raise ValueError(f"no variant {variant}")
    result = []

    def run():
        result[:] = [model(*args)]

    return run, lambda: undo(result[0]).contiguous().numpy(), torch.__version__


def torch_model(task, tensors):
    """Returns a module with the weights in it, its arguments, and what makes the workload's output of its result."""
    import torch
    from torch import nn
    from torch.nn import functional

    def linear(weight):
        layer = nn.Linear(*weight.shape, bias=False)
        layer.weight = nn.Parameter(weight.t().contiguous(), requires_grad=False)
        return layer

    class Attention(nn.Module):
        def forward(self, q, k, v):
            return functional.scaled_dot_product_attention(q, k, v, is_causal=task["causal"])

    class SwiGLU(nn.Module):
        def __init__(self, gate, up, down):
            super().__init__()
            self.gate, self.up, self.down = linear(gate), linear(up), linear(down)

        def forward(self, x):
            return self.down(functional.silu(self.gate(x)) * self.up(x))

    class Experts(nn.Module):
        def __init__(self, gate, up, down):
            super().__init__()
            self.experts = nn.ModuleList(SwiGLU(*weights) for weights in zip(gate, up, down, strict=True))

        def forward(self, x):
            return torch.stack([expert(part) for expert, part in zip(self.experts, x.unbind(0), strict=True)])

    op, first = task["op"], tensors[0]
    if op == "attention":
        q, k, v = tensors
        group = q.shape[0] // k.shape[0]
        grouped = [q.unflatten(0, (-1, group)), *(t[:, None].expand(-1, group, -1, -1) for t in (k, v))]
        return Attention(), grouped, lambda out: out.flatten(0, 1)
    if op == "conv":
        weight = tensors[1]
        if task["channels_last"]:
            first, weight = first.permute(0, 3, 1, 2), weight.permute(3, 2, 0, 1)
        layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], padding=weight.shape[2] // 2, bias=False)
        layer.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        first = first.contiguous(memory_format=torch.channels_last)
        return layer, [first], lambda out: out.permute(0, 2, 3, 1) if task["channels_last"] else out
    if op == "swiglu":
        if first.ndim == 2:
            return SwiGLU(*tensors[1:]), [first], lambda out: out
        if len(first) == 1:
            return SwiGLU(*(t[0] for t in tensors[1:])), [first[0]], lambda out: out[None]
        return Experts(*tensors[1:]), [first], lambda out: out
    return linear(tensors[1]), [first], lambda out: out


def onnx_model(task, inputs):
    """Returns (model bytes, {input name: array}, what makes the workload's output of the result)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, fed = [], [], {}

    def node(kind, *names, **attributes):
        nodes.append(helper.make_node(kind, list(names), [f"t{len(nodes)}"], **attributes))
        return f"t{len(nodes) - 1}"

    def constant(array):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), f"c{len(constants)}"))
        return f"c{len(constants) - 1}"

    def feed(array):
        fed[f"in{len(fed)}"] = np.ascontiguousarray(array)
        return f"in{len(fed) - 1}"

    def swiglu(x, gate, up, down):
        gated = node("MatMul", x, constant(gate))
        silu = node("Mul", gated, node("Sigmoid", gated))
        return node("MatMul", node("Mul", silu, node("MatMul", x, constant(up))), constant(down))

    op, undo = task["op"], lambda out: out
    if op == "attention":
        q, k, v = inputs
        group = q.shape[0] // k.shape[0]
        shape = (len(k), group, *q.shape[1:])
        names = [feed(q.reshape(shape)), feed(k[:, None].swapaxes(2, 3)), feed(v[:, None])]
        scores = node("MatMul", names[0], names[1])
        scores = node("Mul", scores, constant(np.float32(q.shape[-1] ** -0.5)))
        if task["causal"]:
            mask = np.triu(np.full((q.shape[1], q.shape[1]), np.finfo(np.float32).min, np.float32), 1)
            scores = node("Add", scores, constant(mask))
        node("MatMul", node("Softmax", scores, axis=-1), names[2])
        undo = lambda out: out.reshape(q.shape)  # noqa: E731
    elif op == "conv":
        data, weight = inputs
        if task["channels_last"]:
            data, weight = data.transpose(0, 3, 1, 2), weight.transpose(3, 2, 0, 1)
            undo = lambda out: out.transpose(0, 2, 3, 1)  # noqa: E731
        pad = weight.shape[2] // 2
        node("Conv", feed(data), constant(weight), pads=[pad] * 4)
    elif op == "swiglu" and inputs[0].ndim == 3:
        experts = []
        for each in zip(*inputs, strict=True):
            experts.append(swiglu(feed(each[0][None]), *each[1:]))
        node("Concat", *experts, axis=0)
    elif op == "swiglu":
        swiglu(feed(inputs[0]), *inputs[1:])
    else:
        node("MatMul", feed(inputs[0]), constant(inputs[1]))
    output = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in fed.items()]
    graph = helper.make_graph(nodes, "kernel", given, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model), fed, undo


def onnxruntime_(task, inputs, variant):
    """Returns how ONNX Runtime runs the kernel, its tensors bound, its weights packed when the session is made."""
    import onnxruntime

    model, fed, undo = onnx_model(task, inputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = task["threads"], 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    kept = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in fed.values()]
    for name, value in zip(fed, kept, strict=True):
        binding.bind_ortvalue_input(name, value)
    dims = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    result = onnxruntime.OrtValue.ortvalue_from_numpy(np.empty(dims, np.float32))
    binding.bind_ortvalue_output(model.graph.output[0].name, result)
    return lambda: session.run_with_iobinding(binding), lambda: undo(result.numpy()), onnxruntime.__version__


def openvino_(task, inputs, variant):
    """Returns how OpenVINO runs the kernel in float32, made from PyTorch's module or from the ONNX graph."""
    import openvino

    undo = lambda out: out  # noqa: E731
    if variant == "from-torch":
        import torch

        module, args, back = torch_model(task, [torch.from_numpy(array) for array in inputs])
        shapes = [tuple(arg.shape) for arg in args]
        model = openvino.convert_model(module.eval(), example_input=tuple(args), input=shapes)
        arrays = [np.ascontiguousarray(arg.contiguous().numpy()) for arg in args]
        undo = lambda out: back(torch.from_numpy(out)).contiguous().numpy()  # noqa: E731
    else:
        made, fed, undo = onnx_model(task, inputs)
        model, arrays = openvino.Core().read_model(made.SerializeToString()), list(fed.values())
    exact = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(model, "CPU", exact | {"INFERENCE_NUM_THREADS": task["threads"]})
    request = compiled.create_infer_request()
    tensors = [openvino.Tensor(array) for array in arrays]  # copies: a shared one does not keep its array alive
    for index, tensor in enumerate(tensors):
        request.set_input_tensor(index, tensor)
    read = lambda: undo(np.array(request.get_output_tensor(0).data))  # noqa: E731
    return request.infer, read, openvino.__version__


if __name__ == "__main__":
    main()

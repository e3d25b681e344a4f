"""What the host reads of a device: the values, without gradient, of every tensor of a call."""

import pytest
import torch

from kernels.host import to_host


def test_the_values_come_in_order_whatever_their_types_and_shapes():
    tensors = torch.tensor(2.5), torch.arange(3), torch.zeros(2, 0), torch.tensor([[True], [False]])
    values = to_host(*tensors)
    assert [value.tolist() for value in values] == [tensor.tolist() for tensor in tensors]
    assert [str(value.dtype) for value in values] == ["float32", "int64", "float32", "bool"]
    assert to_host() == []


def test_a_tensor_with_a_gradient_is_read_without_it_and_on_the_cpu_without_a_copy():
    weight = torch.ones(3, requires_grad=True)
    (value,) = to_host(weight)
    with torch.no_grad():
        weight.mul_(2)
    assert value.tolist() == [2.0, 2.0, 2.0]


def test_bf16_is_refused():
    with pytest.raises(TypeError, match="BFloat16"):
        to_host(torch.ones(1, dtype=torch.bfloat16))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_what_a_gpu_has_not_finished_is_waited_for():
    large = torch.ones(4096, 4096, device="cuda")
    for _ in range(20):
        large = large @ large / 4096
    first, total = to_host(large[0, 0], large.sum())
    assert float(first) == 1.0
    assert float(total) == pytest.approx(4096**2, rel=1e-3)

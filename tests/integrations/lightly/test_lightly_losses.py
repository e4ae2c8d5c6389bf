"""lightly's losses with our hot paths against lightly's own: values, gradients, types, state."""

import copy
import inspect
from unittest import mock

import pytest
import torch
from torch.testing import assert_close

from tests.integrations.peers import require

lightly = require("lightly")
from lightly.loss import BarlowTwinsLoss, DirectCLRLoss, NTXentLoss, SwaVLoss  # noqa: E402
from lightly.loss import swav_loss as lightly_swav  # noqa: E402
from lightly.models.modules.memory_bank import MemoryBankModule  # noqa: E402

from ssl_fast import ops  # noqa: E402
from ssl_fast.integrations import lightly as integration  # noqa: E402
from ssl_fast.integrations.lightly import _patches  # noqa: E402

pytestmark = pytest.mark.smoke


@pytest.fixture(autouse=True)
def enabled():
    with integration.enable(quiet=True):
        yield


def features(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def run(loss, *arguments, autocast=False):
    """The loss and the gradients of copies of all tensors among the arguments that want one."""
    arguments = [
        [x.clone().requires_grad_() for x in a] if isinstance(a, list) else a for a in arguments
    ]
    arguments = [
        a.clone().requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a
        for a in arguments
    ]
    leaves = [x for a in arguments for x in (a if isinstance(a, list) else [a])]
    leaves = [x for x in leaves if isinstance(x, torch.Tensor) and x.requires_grad]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(*arguments)
    gradients = torch.autograd.grad(value.sum(), leaves, allow_unused=True) if leaves else ()
    return value.detach(), gradients


def check(loss, *arguments, used, autocast=False, **tolerance):
    """Ours and theirs agree, and ours called the op `used` of our own."""
    with mock.patch.object(*used, wraps=getattr(*used)) as spy:
        found = run(loss, *arguments, autocast=autocast)
    assert spy.called
    with integration.disable():
        expected = run(loss, *arguments, autocast=autocast)
    assert found[0].shape == expected[0].shape
    assert_close(found, expected, **tolerance)


def leaves(*shape, dtype=torch.float32):
    return [features(*shape, seed=i, dtype=dtype).requires_grad_() for i in range(2)]


@pytest.mark.parametrize("size", [(2, 3), (9, 16), (70, 128)])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_ntxent(size, temperature):
    loss = NTXentLoss(temperature)
    check(loss, *leaves(*size), used=(ops, "nt_xent"))
    check(
        loss, *(x.double().detach().requires_grad_() for x in leaves(*size)), used=(ops, "nt_xent")
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_losses_in_half_precision(dtype, autocast):
    near = {"rtol": 0.03, "atol": 0.02, "autocast": autocast}
    pair = leaves(48, 32, dtype=dtype)
    if dtype == torch.bfloat16 or autocast:
        check(NTXentLoss(), *pair, used=(ops, "nt_xent"), **near)
        bank = NTXentLoss(memory_bank_size=(96, 32))
        # lightly under autocast: the bank's products are of its own type.
        if dtype == torch.float32:
            check(bank, *pair, used=(ops, "info_nce_queue"), **near)
        near["atol"] = 0.3  # lightly sums in bfloat16
        check(BarlowTwinsLoss(), *pair, used=(ops, "barlow_twins_loss"), **near)
        crops = [0.3 * features(16, 20, seed=i, dtype=dtype) for i in range(4)]
        near["atol"] = 0.05
        check(SwaVLoss(), crops[:2], crops[2:], used=(ops, "sinkhorn"), **near)


@pytest.mark.parametrize("wants", [(True, True), (True, False), (False, True)])
def test_ntxent_with_a_bank(wants):
    torch.manual_seed(0)
    loss = NTXentLoss(0.1, memory_bank_size=(20, 8))
    theirs = copy.deepcopy(loss)
    names = dict(loss.named_buffers()).keys()
    for step in range(5):  # 6 rows a time: past the end, where lightly drops what is over
        pair = [features(6, 8, seed=2 * step + i).requires_grad_(wants[i]) for i in range(2)]
        with mock.patch.object(ops, "info_nce_queue", wraps=ops.info_nce_queue) as spy:
            found = run(loss, *pair)
        assert spy.called
        with integration.disable():
            expected = run(theirs, *pair)
        assert_close(found, expected)
        assert_close(loss.memory_bank.bank, theirs.memory_bank.bank)
        assert torch.equal(loss.memory_bank.bank_ptr, theirs.memory_bank.bank_ptr)
    assert dict(loss.named_buffers()).keys() == names
    assert loss.state_dict() == theirs.state_dict() == {}


def test_the_bank_stays_without_gradients():
    loss = NTXentLoss(0.1, memory_bank_size=(20, 8))
    bank = loss.memory_bank.bank.clone()
    with torch.no_grad():
        loss(*leaves(6, 8))
    assert torch.equal(loss.memory_bank.bank, bank)


def test_backward_comes_after_the_bank_has_changed():
    loss = NTXentLoss(0.1, memory_bank_size=(8, 8))
    theirs, pair = copy.deepcopy(loss), leaves(8, 8)
    value = loss(*pair)
    loss.memory_bank.bank.zero_()
    found = torch.autograd.grad(value, pair)
    with integration.disable():
        assert_close(found, run(theirs, *pair)[1])


def test_ntxent_of_a_subclass():
    loss = DirectCLRLoss(loss_dim=8)
    check(loss, *leaves(6, 4, 5), used=(ops, "nt_xent"))


class Reversed(MemoryBankModule):
    def forward(self, *args, **kwargs):
        output, bank = super().forward(*args, **kwargs)
        return output, -bank


def unusual_losses():
    label_smoothing, other_bank, hooked = (NTXentLoss(memory_bank_size=(10, 8)) for _ in range(3))
    label_smoothing.cross_entropy = torch.nn.CrossEntropyLoss(label_smoothing=0.5)
    other_bank.memory_bank = Reversed((10, 8))
    hooked.cross_entropy.register_forward_hook(lambda module, args, output: 2 * output)
    return [label_smoothing, other_bank, hooked, NTXentLoss(-0.5)]


@pytest.mark.parametrize("index", range(4))
def test_what_is_not_usual_is_lightlys(index):
    loss = unusual_losses()[index]
    theirs, pair = copy.deepcopy(loss), leaves(6, 8)
    found = run(loss, *pair)
    with integration.disable():
        assert_close(found, run(theirs, *pair), rtol=0, atol=0)


def test_a_bank_without_its_dim():
    if lightly.__version__ >= "1.6":
        with pytest.raises(ValueError, match="dim"):
            NTXentLoss(memory_bank_size=10)
        return
    with pytest.warns(UserWarning, match="feature dimension"):
        loss = NTXentLoss(0.1, memory_bank_size=10)
    pair = leaves(6, 8)
    loss(*pair)
    assert loss.memory_bank.bank.shape == (10, 8)
    theirs = copy.deepcopy(loss)
    found = run(loss, *pair)
    with integration.disable():
        assert_close(found, run(theirs, *pair))


@pytest.mark.parametrize("size", [(2, 3), (9, 40), (64, 16)])
@pytest.mark.parametrize("weight", [5e-3, 1.0])
def test_barlow_twins(size, weight):
    check(
        BarlowTwinsLoss(weight),
        *leaves(*size),
        used=(ops, "barlow_twins_loss"),
        rtol=1e-4,
        atol=1e-5,
    )


def test_barlow_twins_of_one_row():
    with pytest.raises(ValueError, match="more than 1 value"):
        BarlowTwinsLoss()(*leaves(1, 8))


@pytest.mark.parametrize("queue", [False, True])
@pytest.mark.parametrize(("high", "low"), [(2, 0), (2, 6), (1, 2), (3, 1)])
def test_swav(high, low, queue):
    crops = [0.3 * features(12, 20, seed=i) for i in range(high + low)]
    queues = [0.3 * features(7, 20, seed=50 + i) for i in range(high)] if queue else None
    loss = SwaVLoss(0.2, sinkhorn_iterations=4, sinkhorn_epsilon=0.1)
    value = loss(crops[:high], crops[high:], queues)
    with integration.disable():
        assert_close(value, loss(crops[:high], crops[high:], queues))
    check(loss, crops[:high], crops[high:], used=(ops, "sinkhorn"))


def test_swav_of_other_sizes_is_lightlys():
    crops = [features(5, 8, seed=1), features(5, 8, seed=2)]
    low = [features(6, 8, seed=3)]
    outcome = []
    for context in (integration.enable, integration.disable):
        with context(), pytest.raises(RuntimeError) as error:
            SwaVLoss()(crops, low)
        outcome.append(str(error.value))
    assert outcome[0] == outcome[1]
    with mock.patch.object(lightly_swav, "sinkhorn", wraps=lightly_swav.sinkhorn) as spy:
        SwaVLoss(sinkhorn_iterations=0)(crops, [])
    assert spy.called


@pytest.mark.parametrize("name", ["NTXentLoss", "BarlowTwinsLoss", "SwaVLoss"])
def test_signatures(name):
    ours, theirs = (getattr(module, name) for module in (integration, lightly.loss))
    for method in ("__init__", "forward"):
        found, expected = (inspect.signature(getattr(kind, method)) for kind in (ours, theirs))
        assert [(p.name, p.default, p.kind) for p in found.parameters.values()] == [
            (p.name, p.default, p.kind) for p in expected.parameters.values()
        ]


@pytest.mark.parametrize("name", ["NTXentLoss", "BarlowTwinsLoss", "SwaVLoss"])
def test_our_classes_agree(name):
    ours, theirs = (getattr(module, name)() for module in (integration, lightly.loss))
    if name == "SwaVLoss":
        arguments = [[0.3 * features(12, 20, seed=i) for i in range(2)] for _ in range(2)]
    else:
        arguments = leaves(12, 20)
    found = run(ours, *arguments)
    with integration.disable():
        expected = run(theirs, *arguments)
    assert found[0].shape == expected[0].shape
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_our_bank_is_as_lightlys():
    torch.manual_seed(0)
    ours = integration.NTXentLoss(0.1, memory_bank_size=(18, 8))
    theirs = NTXentLoss(0.1, memory_bank_size=(18, 8))
    theirs.memory_bank.bank = ours.memory_bank.bank.clone()
    with integration.disable():
        for _ in range(4):
            pair = leaves(6, 8)
            assert_close(run(ours, *pair), run(theirs, *pair))
            assert_close(ours.memory_bank.bank, theirs.memory_bank.bank)
    assert ours.state_dict() == {}


def test_patched_temperature_of_another_kind_is_lightlys():
    loss = NTXentLoss()
    loss.temperature = torch.tensor(0.3)
    with mock.patch.object(_patches.ops, "nt_xent") as spy:
        loss(*leaves(4, 8))
    assert not spy.called

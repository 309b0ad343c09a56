"""Memory of large results: it comes back, is bounded, and is nobody else's meanwhile."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fast_layers import KERNEL, normal
from torch import nn

from bnutils import fast
from bnutils.fast import extension

pytestmark = KERNEL
MIB = 1 << 20
LIMIT = 256 * MIB  # unless BNUTILS_KEEP_MIB says otherwise


def result(mib: int) -> torch.Tensor:
    """An output of the kernel that takes so many MiB."""
    layer = fast.KernelBatchNorm1d(256)
    with torch.no_grad():
        return layer(torch.randn(1024, 256).repeat(mib, 1))  # 1 MiB of random numbers


def idle() -> int:
    gc.collect()
    return extension.kernel.idle_bytes()


def test_the_next_result_of_the_size_takes_the_place_of_one_that_died():
    first = result(3)
    place = first.data_ptr()
    del first
    assert idle() >= 3 * MIB
    assert result(3).data_ptr() == place


def test_a_result_that_lives_is_left_alone():
    first = result(3)
    copy = first.clone()
    others = [result(3) for _ in range(4)]
    assert len({t.data_ptr() for t in (first, *others)}) == 5
    assert torch.equal(first, copy)


def test_a_view_keeps_the_memory_of_a_result():
    row = result(3)[0]
    copy = row.clone()
    result(3)
    assert torch.equal(row, copy)


def test_no_more_than_the_limit_is_kept():
    alive = [result(40) for _ in range(8)]  # 320 MiB
    del alive
    assert LIMIT - 40 * MIB < idle() <= LIMIT
    for mib in (1, 2, 5, 9, 17, 33, 70):  # sizes that nothing idle fits
        result(mib)
        assert idle() <= LIMIT


def test_what_is_larger_than_the_limit_goes_back_at_once():
    before = idle()
    result(LIMIT // MIB + 8)
    assert idle() <= before


def test_a_result_can_be_resized():
    y = result(3)
    y.resize_(8, 256)
    y.resize_(4 * MIB // 1024, 256).fill_(1)
    assert y.sum() == 4 * MIB // 4


def test_a_small_result_is_left_to_pytorch():
    before = idle()
    fast.KernelBatchNorm1d(8)(torch.randn(64, 8))
    assert idle() == before


def test_threads_do_not_get_each_others_results():
    layer = fast.KernelBatchNorm1d(256, track_running_stats=False)
    x = [normal(2048, 256, dtype=torch.float32, seed=k) for k in range(8)]
    expected = [nn.functional.batch_norm(v, None, None, training=True) for v in x]

    def several(k: int) -> bool:
        return all(
            torch.allclose(layer(x[k]), expected[k], atol=1e-5) for _ in range(20)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(several, range(8)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_process_has_memory_of_its_own():
    torch.set_num_threads(1)  # a child cannot use its parent's threads
    y = result(3)
    copy = y.clone()
    result(3)  # idle now, in the parent and in the child
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        right = all(torch.isfinite(result(3)).all() for _ in range(3))
        os.write(writer, b"1" if right else b"0")
        os._exit(0)
    assert os.read(reader, 1) == b"1"
    os.waitpid(child, 0)
    assert torch.equal(y, copy)


def answer(code: str, wish: str) -> int:
    """The number that a program prints where so many MiB may be kept."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"BNUTILS_KEEP_MIB": wish},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")
def test_a_step_with_large_results_has_no_page_faults():
    """Counted in small pages, 2,048 a result: large ones would hide what is new."""
    code = """if True:
        import ctypes, resource
        import torch
        from bnutils import fast
        PR_SET_THP_DISABLE = 41
        ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
        faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        x = torch.randn(4096, 512, requires_grad=True)  # 8 MiB
        layer, dy = fast.KernelBatchNorm1d(512), torch.randn(4096, 512)
        wanted, counts = (x, *layer.parameters()), []
        for _ in range(12):
            before = faults()
            torch.autograd.grad(layer(x), wanted, dy)
            counts.append(faults() - before)
        print(min(counts[2:]))
    """
    assert answer(code, wish="256") < 200 < 2000 < answer(code, wish="0")


@pytest.mark.parametrize("wish", ["0", "4"])
def test_the_environment_sets_the_limit(wish):
    code = """if True:
        import torch
        from bnutils import fast
        from bnutils.fast import extension
        layer = fast.KernelBatchNorm1d(256)
        alive = [layer(torch.randn(3 * 1024, 256)) for _ in range(3)]
        del alive
        print(extension.kernel.idle_bytes())
    """
    assert answer(code, wish) == 3 * MIB * (wish == "4")

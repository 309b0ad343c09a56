"""Checkers of chapter 15: many processes."""

from __future__ import annotations

import numpy as np

from bnutils.exercises import close, exercise, find_remark, gap, is_tuple_of


@exercise("15.1")
def loss_factor(answer):
    """W N_r / M."""
    for sizes in ((4, 4), (6, 2), (5, 0, 7)):
        total, world = sum(sizes), len(sizes)
        for rank, n in enumerate(sizes):
            found = answer(sizes, rank)
            mistakes = {
                "right for a sum over the ranks; DDP does what instead?": n / total,
                "that belongs to a loss that is a sum, not a mean": world / total,
                "with 1 each rank counts the same, whatever it holds": 1,
            }
            otherwise = f"{found} is not it; what must the factors of all ranks sum to?"
            remark = find_remark(found, world * n / total, mistakes, otherwise)
            if remark:
                return f"sizes {sizes}, rank {rank}: {remark}"
    return None


def _triple(x):
    if not len(x):
        return 0, np.zeros(x.shape[1]), np.zeros(x.shape[1])
    return len(x), x.mean(0), ((x - x.mean(0)) ** 2).sum(0)


@exercise("15.2")
def merge_two(answer):
    """Count, mean and centred sum of squares of two parts together."""
    rng = np.random.default_rng(15)
    x = rng.normal([0, 5, -3], [1, 2, 0.1], size=(12, 3)) + np.arange(12)[:, None]
    for cut in (6, 9, 0, 12):
        a, b = _triple(x[:cut]), _triple(x[cut:])
        found = answer(a, b)
        if not is_tuple_of(3, found):
            return "return three things: count, mean, sum of squared distances"
        remark = _judge_merged(found, a, b, _triple(x))
        if remark:
            return f"with parts of {cut} and {12 - cut}: {remark}"
    far = 1e8 + rng.normal(size=(12, 3))
    squares = _triple(far - 1e8)[2]
    if not close(answer(_triple(far[:5]), _triple(far[5:]))[2], squares, 1e-3):
        return "right, but a mean of 1e8 destroys it: do you subtract large squares?"
    return None


def _judge_merged(found, a, b, right):
    m, mean, squares = right
    if not np.isfinite(np.concatenate([np.ravel(v) for v in found])).all():
        return "not finite; what is divided by what if a part is empty?"
    if not close(found[0], m):
        return f"the count is {found[0]}"
    mistakes = {"the larger part should weigh more in the mean": (a[1] + b[1]) / 2}
    off = f"the mean is off by up to {gap(found[1], mean):.3g}"
    remark = find_remark(found[1], mean, mistakes, off)
    mistakes = {
        "the squares within are there, those between are missing": a[2] + b[2],
        "a sum of squares is asked for, not the variance": squares / m,
    }
    off = f"the squares are off by up to {gap(found[2], squares):.3g}"
    return remark or find_remark(found[2], squares, mistakes, off)


@exercise("15.3")
def backward_of_one_rank(answer):
    """The closed form with two sums over all ranks; a rank's own dweight and dbias."""
    rng = np.random.default_rng(15)
    rows, (weight, std) = np.split(np.arange(12), [5, 7]), rng.uniform(0.5, 2, (2, 3))
    x, dy = rng.normal(0.5, 1, size=(2, 12, 3))
    x_hat = (x - x.mean(0)) / x.std(0)
    found = _run_ranks(answer, dy, x_hat, std, weight, rows)
    if not all(is_tuple_of(3, f) for f in found):
        return "return three arrays: dx, dweight, dbias"
    mine = [(dy[r], x_hat[r]) for r in rows]
    for (dy_r, x_hat_r), (_, dweight, dbias) in zip(mine, found, strict=True):
        for name, value, terms, over in (
            ("dweight", dweight, dy_r * x_hat_r, dy * x_hat),
            ("dbias", dbias, dy_r, dy),
        ):
            theirs = f"{name} is that of all ranks: DDP would add them up again"
            off = f"{name} of a rank is off by up to {gap(value, terms.sum(0)):.3g}"
            mistakes = {theirs: over.sum(0)}
            remark = find_remark(value, terms.sum(0), mistakes, off)
            if remark:
                return remark
    if [np.shape(f[0]) for f in found] != [d.shape for d, _ in mine]:
        return "dx should have the shape of dy"
    return _judge_dx(
        np.concatenate([f[0] for f in found]), dy, x_hat, weight, std, rows
    )


def _run_ranks(answer, dy, x_hat, std, weight, rows):
    """Call all ranks again and again, until every all_sum has its answer."""
    heard = [[] for _ in rows]  # what each rank handed to all_sum, in order
    for _ in range(8):
        results, before = [], [list(h) for h in heard]
        for rank, part in enumerate(rows):
            said = heard[rank] = []

            def all_sum(array, said=said, before=before):
                said.append(np.array(array, dtype=float))
                calls = [b[len(said) - 1] for b in before if len(b) >= len(said)]
                return sum(calls) if len(calls) == len(rows) else 0 * said[-1]

            args = (dy[part].copy(), x_hat[part].copy(), std.copy(), weight.copy())
            results.append(answer(*args, len(dy), all_sum))
    return results


def _judge_dx(dx, dy, x_hat, weight, std, rows):
    def closed(means, scale=weight / std):
        return scale * (dy - means(dy) - x_hat * means(dy * x_hat))

    def local(v):
        parts = [np.broadcast_to(v[r].mean(0), v[r].shape) for r in rows]
        return np.concatenate(parts)

    right = closed(lambda v: v.mean(0))
    mistakes = {
        "dx of a batch norm that is local: its means need the other ranks": (
            closed(local)
        ),
        "gamma is missing in dx": closed(lambda v: v.mean(0), 1 / std),
        "dx needs means over the whole batch: divide the sums": (
            closed(lambda v: v.sum(0))
        ),
        "one road is missing in dx: the one through the standard deviation": (
            weight / std * (dy - dy.mean(0))
        ),
    }
    return find_remark(dx, right, mistakes, f"dx is off by up to {gap(dx, right):.3g}")

"""Every code of :mod:`bnutils.doctor`: severity, consequence, remedy."""

__all__ = ["TEXTS"]

TEXTS: dict[str, tuple[str, str, str]] = {
    "forward-fails": (
        "error",
        "the model does not run on this batch; only what needs no data was examined",
        "compare the batch's shape and dtype with what the model expects",
    ),
    "nonfinite-statistics": (
        "error",
        "evaluation gives NaN for good: a moving average never forgets a NaN",
        "find the batch that overflowed, then reset_running_stats() and recalibrate",
    ),
    "train-mode-in-eval": (
        "error",
        "predictions depend on the rest of the batch, and predicting changes the model",
        "call eval() on the whole model before evaluation",
    ),
    "never-updated": (
        "error",
        "evaluation normalises with mean 0 and variance 1, which describe no data",
        "recalibrate: deploy.recalibrate or torch.optim.swa_utils.update_bn",
    ),
    "stale-statistics": (
        "error",
        "evaluation normalises with statistics that are not those of this data",
        "recalibrate on training data; check input scaling, momentum and checkpoint",
    ),
    "tracking-off": (
        "warning",
        "training no longer updates the statistics, evaluation still uses the old ones",
        "set the flag in the constructor, or set both buffers to None",
    ),
    "no-running-stats": (
        "warning",
        "evaluation uses the statistics of each batch: predictions depend on company",
        "use track_running_stats=True unless that is intended",
    ),
    "batch-of-one": (
        "error",
        "training stops with 'Expected more than 1 value per channel'",
        "drop_last=True, or a batch size that leaves another remainder",
    ),
    "tiny-batch": (
        "warning",
        "the statistics are mostly noise, in training and in what is stored",
        "larger batches, a smaller momentum, or GroupNorm/LayerNorm",
    ),
    "batches-differ": (
        "warning",
        "batches are no random samples (sorted?): what tells them apart is normalised away",
        "shuffle the training data",
    ),
    "wrong-axis": (
        "error",
        "positions are normalised as if they were channels; no error, as both are as many",
        "channels belong in dimension 1: x.transpose(1, 2) before and after",
    ),
    "momentum-zero": (
        "error",
        "the running statistics never move; evaluation uses what they started with",
        "PyTorch's momentum is the weight of the new batch: 0.1, not 0",
    ),
    "momentum-one": (
        "warning",
        "the running statistics are those of the last batch alone",
        "PyTorch's momentum is the weight of the new batch: 0.1, or None to average",
    ),
    "momentum-range": (
        "error",
        "the running statistics are no average any more and can diverge",
        "choose a momentum between 0 and 1, or None",
    ),
    "frozen-by-requires-grad": (
        "warning",
        "weight and bias stay, but the running statistics go on moving",
        "also call eval() on it, after every model.train()",
    ),
    "sync-without-group": (
        "warning",
        "it normalises each process by itself, like plain batch norm",
        "init_process_group() first, or use plain batch norm",
    ),
    "several-forwards": (
        "warning",
        "statistics are of micro-batches and move several times per step",
        "count m per micro-batch; momentum 1 - (1 - a)**(1/k) keeps the memory per step",
    ),
    "recomputed": (
        "warning",
        "checkpointing runs it twice per step: its statistics move twice as fast",
        "momentum 1 - sqrt(1 - a), or keep batch norm outside the checkpointed part",
    ),
    "shared-norm": (
        "warning",
        "one set of running statistics mixes all its places; none fits in evaluation",
        "one batch norm per place (weights around it may stay shared)",
    ),
    "dropout-before-norm": (
        "warning",
        "the variance is larger in training than in evaluation, and that one is stored",
        "dropout after the last batch norm, or recalibrate with dropout off",
    ),
    "dead-channels": (
        "note",
        "these channels are constant: whatever they compute is lost",
        "remove them, or lower the weight decay on gamma",
    ),
    "decayed-norm": (
        "note",
        "weight decay pulls gamma towards 0; in the layers before, it only changes "
        "the effective learning rate",
        "put batch norm's parameters in a group with weight_decay=0",
    ),
    "redundant-bias": (
        "note",
        "the batch mean takes the bias out again: parameters that do nothing",
        "bias=False in the layer before",
    ),
}

"""torch-rechub's MMOE and PLE as its users train them, and the rows on which they are compared with ours."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

N_COLUMNS, N_LEVELS = 10, 1000  # categorical columns, and as many numeric ones
RATES = (0.40, 0.10, 0.02)  # of the tasks' positive labels

Tables = tuple[pl.DataFrame, pl.DataFrame]


def draw_tables(n_train: int) -> tuple[Tables, Tables]:
    """Draw three binary tasks of 40, 10 and 2 % positives that share a part of their causes.

    X is 10 columns of codes below 1000, skewed, and 10 of numbers; a fifth as many rows are drawn to score.
    """
    n, rng = n_train + n_train // 5, np.random.default_rng(0)
    frequency = 1 / np.arange(1, N_LEVELS + 1) ** 0.8
    codes = rng.choice(N_LEVELS, size=(n, N_COLUMNS), p=frequency / frequency.sum())
    numeric = rng.standard_normal((n, N_COLUMNS)).astype(np.float32)
    effects = (rng.standard_normal((N_COLUMNS, N_LEVELS, 6)) / np.sqrt(N_COLUMNS)).astype(np.float32)
    z = effects[np.arange(N_COLUMNS), codes].sum(axis=1)
    z += numeric @ (rng.standard_normal((N_COLUMNS, 6)) / np.sqrt(N_COLUMNS)).astype(np.float32)
    shared = np.tanh(z[:, 0] * z[:, 1]) + z[:, 2]
    labels = {}
    for t, rate in enumerate(RATES):
        logit = 0.7 * shared + 0.7 * (z @ rng.standard_normal(6)) / np.sqrt(6)
        threshold = np.quantile(logit + 0.5 * rng.logistic(size=n), 1 - rate)
        labels[f"t{t}"] = (logit + 0.5 * rng.logistic(size=n) > threshold).astype(np.int64)
    X = pl.DataFrame(
        {f"c{j}": codes[:, j] for j in range(N_COLUMNS)} | {f"x{j}": numeric[:, j] for j in range(N_COLUMNS)}
    )
    y = pl.DataFrame(labels)
    return (X[:n_train], X[n_train:]), (y[:n_train], y[n_train:])


def train_rechub(
    name: Literal["MMoE", "PLE"], X: Tables, y: pl.DataFrame, *, epochs: int, seed: int
) -> tuple[list[float], np.ndarray, int]:
    """Train a torch-rechub model of binary tasks, epoch by epoch, and score other rows.

    8 experts, or two levels of 2 shared ones and 2 per task; 64-32 each with batch normalisation. `DataGenerator` makes
    the loaders and `MTLTrainer` runs the epochs, by `train_one_epoch`: `fit` would score validation rows after every
    epoch and write the weights into a file. Its output is discarded. Gives CPU seconds of the process (at the start,
    after every epoch, and at the end), probabilities (n_scored, T), and the number of parameters.
    """
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.models.multi_task import MMOE, PLE
    from torch_rechub.trainers import MTLTrainer
    from torch_rechub.utils.data import DataGenerator

    stamps = [time.process_time()]
    torch.manual_seed(seed)
    train, scored = ({column: frame[column].to_numpy() for column in frame.columns} for frame in X)
    features: list[Any] = [SparseFeature(f"c{j}", vocab_size=N_LEVELS, embed_dim=8) for j in range(N_COLUMNS)]
    features += [DenseFeature(f"x{j}") for j in range(N_COLUMNS)]
    types, towers = ["classification"] * y.width, [{"dims": [16]}] * y.width
    options: dict[str, Any] = {"expert_params": {"dims": [64, 32]}, "tower_params_list": towers}
    if name == "MMoE":
        model = MMOE(features, types, n_expert=8, **options)
    else:
        model = PLE(features, types, n_level=2, n_expert_specific=2, n_expert_shared=2, **options)
    unlabelled = np.zeros((len(X[1]), y.width))
    loaders = DataGenerator(train, y.to_numpy()).generate_dataloader(
        scored, unlabelled, scored, unlabelled, batch_size=1024
    )
    trainer = MTLTrainer(model, types, optimizer_params={"lr": 1e-3, "weight_decay": 0.0}, n_epoch=epochs)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        for _ in range(epochs):
            trainer.train_one_epoch(loaders[0])
            stamps.append(time.process_time())
        stamps.append(time.process_time())
        probabilities = trainer.predict(model, [columns for columns, _ in loaders[1]])
    return stamps, np.array(probabilities), sum(parameter.numel() for parameter in model.parameters())

"""torch-rechub's MMOE, PLE and DIN as its users train them, and the rows on which they are compared with ours."""

from __future__ import annotations

import io
import math
import time
from contextlib import redirect_stderr, redirect_stdout
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from tabmtl.synth import make_histories

N_COLUMNS, N_LEVELS = 10, 1000  # categorical columns, and as many numeric ones
RATES = (0.40, 0.10, 0.02)  # of the tasks' positive labels

#: Of DIN and its counterpart: entries of a history at most, width of embeddings, of the attention, and of the layers.
LONGEST, WIDTH, UNITS, HIDDEN = 50, 16, 16, (64, 32)

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


def draw_impressions(n_train: int, mean_length: float) -> tuple[Tables, Tables]:
    """Draw impressions of 1 000 items of 50 groups to users with histories, whose order and times tell nothing.

    DIN of torch-rechub knows neither. Lengths are geometric, and only the newest entries are kept. A fifth as many rows
    are drawn to score.
    """
    law: dict[str, Any] = {"n_items": 1_000, "n_groups": 50, "half_life": math.inf, "missing": 0.0}
    train = make_histories(n_train, mean_length=mean_length, **law, random_state=0)
    parts = (train, train.draw(n_train // 5, random_state=1))
    X = [
        part.X.select("item", pl.col("position").cast(pl.String), pl.col("history").list.tail(LONGEST))
        for part in parts
    ]
    y = [part.y.select("click") for part in parts]
    return (X[0], X[1]), (y[0], y[1])


def train_din(
    X: Tables, y: pl.DataFrame, *, epochs: int, learning_rate: float, seed: int
) -> tuple[list[float], np.ndarray, int]:
    """Train torch-rechub's DIN of one binary task, epoch by epoch, and score other rows; see `train_rechub`.

    The attention and the layers have its defaults but for their widths. Histories are padded to the longest of the
    table, as it asks for.
    """
    from torch_rechub.basic.features import SequenceFeature, SparseFeature
    from torch_rechub.models.ranking import DIN
    from torch_rechub.trainers import CTRTrainer
    from torch_rechub.utils.data import DataGenerator

    stamps = [time.process_time()]
    torch.manual_seed(seed)
    items = pl.Enum(pl.concat([X[0]["item"], X[0]["history"].explode().drop_nulls()]).unique().sort())
    train, scored = (_padded(frame, items) for frame in X)
    vocab = {"vocab_size": len(items.categories) + 1, "embed_dim": WIDTH}
    model = DIN(
        features=[SparseFeature("position", vocab_size=10, embed_dim=WIDTH)],
        history_features=[SequenceFeature("history", pooling="concat", shared_with="item", padding_idx=0, **vocab)],
        target_features=[SparseFeature("item", padding_idx=0, **vocab)],
        mlp_params={"dims": [*HIDDEN]},
        attention_mlp_params={"dims": [UNITS]},
    )
    unlabelled = np.zeros(len(X[1]))
    loaders = DataGenerator(train, y["click"].to_numpy()).generate_dataloader(
        scored, unlabelled, scored, unlabelled, batch_size=1024
    )
    trainer = CTRTrainer(model, optimizer_params={"lr": learning_rate, "weight_decay": 0.0}, n_epoch=epochs)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        for _ in range(epochs):
            trainer.train_one_epoch(loaders[0])
            stamps.append(time.process_time())
        stamps.append(time.process_time())
        probabilities = trainer.predict(model, loaders[1])
    size = sum(parameter.numel() for parameter in model.parameters())
    return stamps, np.array(probabilities)[:, None], size


def _padded(frame: pl.DataFrame, items: pl.Enum) -> dict[str, np.ndarray]:
    """Return codes from 1 of the items of rows (n,), of their histories (n, LONGEST), 0 behind, and positions."""
    lengths = frame["history"].list.len().to_numpy()
    history = np.zeros((len(frame), LONGEST), dtype=np.int64)
    entries = frame["history"].explode(empty_as_null=False)
    history[np.arange(LONGEST) < lengths[:, None]] = entries.cast(items).to_physical().to_numpy() + 1
    item = frame["item"].cast(items).to_physical().to_numpy().astype(np.int64) + 1
    return {"item": item, "position": frame["position"].cast(pl.Int64).to_numpy(), "history": history}

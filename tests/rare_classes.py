"""A table of many classes, some of them rare, and what a model reaches there."""

import numpy as np
import polars as pl


def rare_classes(seed, n_rows=20_000, n_tasks=6):
    """Twelve blobs, each less than half as frequent as the one before, down to three rows; six tasks alike.

    Returns
    -------
    train, test : tuple of X and y
    """
    rng = np.random.default_rng(seed)
    share = np.exp(-0.8 * np.arange(12))
    label = np.repeat(np.arange(12), np.maximum(3, n_rows * share / share.sum()).astype(int))
    x = 2 * rng.normal(size=(12, 6))[label] + 0.5 * rng.normal(size=(len(label), 6))
    task = pl.Series(rng.integers(0, n_tasks, len(label))).cast(pl.String)
    X, y = pl.DataFrame(x).with_columns(task=task), pl.Series("y", label).cast(pl.String)
    is_test = pl.int_range(len(label), eager=True) % 3 == 2
    return (X.filter(~is_test), y.filter(~is_test)), (X.filter(is_test), y.filter(is_test))


def log_loss(model, X, y):
    shares, classes = model.predict_proba(X), model.tasks_[0].classes
    own = shares[np.arange(len(y)), [classes.index(label) for label in y]]
    return -np.log(np.maximum(own, 1e-15)).mean()


def accuracy(model, X, y):
    return (model.predict(X) == y).mean()

"""SASRec of RecTools on one click log, scored as :meth:`tabmtl.sessions.M2TRec.evaluate` scores.

    python -m benchmarks.peers.rectools TRAIN.parquet TEST.parquet [--epochs N] [--factors N]

RecTools 0.19 needs numpy below 2 and pandas below 3, so it has an environment of its own, without this package:
``pip install 'rectools[torch]==0.19.0' 'pyarrow<21'``. The files hold the columns ``session_id``, ``item_id`` and
``time`` of a log, such as the two parts of ``make_sessions(20_000, 1_000, random_state=0).split()``.

Every click of a test session but the first is a target, given the clicks before it; lists of 20 among all items that
train holds, repeats included. One thread; CPU seconds are those of the fit. Softmax over all items, no validation.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd

K = 20
SESSION_LENGTH = 50


def make_prefixes(clicks: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Cut out every proper prefix of every session.

    Parameters
    ----------
    clicks : pandas DataFrame
        ``session_id``, ``item_id``, ``time``.

    Returns
    -------
    prefixes : pandas DataFrame
        Clicks of all prefixes; ``prefix`` names them from 0.
    targets : ndarray of shape (m,)
        The item clicked after each prefix.
    """
    ordered = clicks.sort_values(["session_id", "time"], kind="stable")
    parts: list[pd.DataFrame] = []
    targets: list[Any] = []
    for _, session in ordered.groupby("session_id", sort=False):
        for n in range(1, len(session)):
            parts.append(session.iloc[max(0, n - SESSION_LENGTH) : n].assign(prefix=len(targets)))
            targets.append(session["item_id"].iloc[n])
    return pd.concat(parts), np.array(targets)


def score_lists(lists: pd.DataFrame, targets: np.ndarray) -> dict[str, float]:
    """Compute Recall@20 and MRR@20 of lists with the columns ``user_id`` (a prefix), ``item_id`` and ``rank``."""
    wanted = pd.DataFrame({"user_id": np.arange(len(targets)), "item_id": targets})
    ranks = lists.merge(wanted, on=["user_id", "item_id"])["rank"].to_numpy()
    return {"recall": len(ranks) / len(targets), "mrr": float((1 / ranks).sum() / len(targets))}


def as_interactions(users: pd.Series, clicks: pd.DataFrame) -> pd.DataFrame:
    """Name the columns as RecTools does."""
    columns = {"user_id": users, "item_id": clicks["item_id"], "datetime": clicks["time"]}
    return pd.DataFrame(columns).assign(weight=1.0)


def main() -> None:
    """Fit and score."""
    import torch
    from pytorch_lightning import Trainer, seed_everything
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--factors", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    seed_everything(0)
    train, test = (pd.read_parquet(path)[["session_id", "item_id", "time"]] for path in (args.train, args.test))
    plain = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    model = SASRecModel(
        n_blocks=2,
        n_factors=args.factors,
        session_max_len=SESSION_LENGTH,
        epochs=args.epochs,
        get_trainer_func=lambda: Trainer(max_epochs=args.epochs, **plain),
        recommend_torch_device="cpu",
    )
    start = time.process_time()
    model.fit(Dataset.construct(as_interactions(train["session_id"], train)))
    seconds = time.process_time() - start
    clicks, targets = make_prefixes(test)
    prefixes = Dataset.construct(as_interactions(clicks["prefix"], clicks))
    lists = model.recommend(
        np.arange(len(targets)), prefixes, k=K, filter_viewed=False, on_unsupported_targets="ignore"
    )
    scores = score_lists(lists, targets)
    print(
        f"RecTools SASRec, {args.epochs} epochs: Recall@{K} {scores['recall']:.4f}, MRR@{K} {scores['mrr']:.4f}, "
        f"{len(targets)} targets, {seconds:.0f} CPU s"
    )


if __name__ == "__main__":
    main()

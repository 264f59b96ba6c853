"""Random sequences of calls to a random recommender, under the laws of `fuzzing`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import recommenders
from fuzzing import BAD_LABELS, LEFT_OUT, LIBRARIES, NAMED, WRONG, BrokenLaw, Walk, arrays_of, shortened

_SESSION_VERBS = {
    "fit": 2,
    "partial_fit": 4,
    "recommend": 4,
    "similar": 2,
    "rank": 1,
    "evaluate": 2,
    "score": 1,
    "add_items": 2,
    "save": 3,
    "copy": 2,
    "set_params": 2,
}
_CLICKS = recommenders.LOG.clicks
_SESSIONS = _CLICKS["session_id"].unique().sort()
_PROBE = recommenders.TEST.filter(
    pl.col("session_id").is_in(recommenders.TEST["session_id"].unique().sort()[:5].implode())
)


class SessionWalk(Walk):
    """One sequence of calls to a recommender, drawn by a seed."""

    verbs = _SESSION_VERBS
    named = (*NAMED, NotImplementedError)

    def __init__(self, seed: int, n_calls: int = 7) -> None:
        self.seed, self.n_calls, self.odd = seed, n_calls, {}
        self.rng = rng = np.random.default_rng(seed)
        form = str(rng.choice([*recommenders.FORMS]))
        self.model = recommenders.tiny(form, epochs=1)
        self.library = str(rng.choice(["polars", "pandas", "pyarrow"]))
        self.calls = [f"{form} of {self.library}"]
        self.said, self.ends, self.n_new = {}, [], 0

    @property
    def probe(self) -> pl.DataFrame:
        """Sessions that are asked after every call."""
        return _PROBE

    def _answers(self, model: Any) -> dict[str, list[np.ndarray]]:
        found = model.recommend(_PROBE, k=10)
        return {"recommend": arrays_of(found), "rank": [np.asarray(model.rank(_PROBE).ranks)]}

    def _words(self, verb: str) -> set[str]:
        found = {*_CLICKS.columns, *recommenders.ITEMS.columns, *self.model.get_params(deep=False), "click log"}
        found |= {type(self.model).__name__, "item table", "shape=", "catalogue", "sessions", "clicks", verb}
        method = getattr(type(self.model), verb, None)
        return found | ({*inspect.signature(method).parameters} if callable(method) else set())

    def _check_finite(self) -> None:
        scores = self.said["recommend"][-1] if self.said else np.zeros(1)
        if not np.isfinite(scores.astype(float)).all():
            raise BrokenLaw(self._tell("a score is missing or infinite"))

    def _check_rows_alone(self) -> None:
        if not self.is_fitted:
            return
        name = _PROBE["session_id"][0]
        whole, alone = (
            self.model.recommend(log, k=self.model.n_items_).filter(session_id=name).sort("item_id")["score"].to_numpy()
            for log in (_PROBE, _PROBE.filter(session_id=name))
        )
        if not np.allclose(whole, alone, rtol=1e-4, atol=1e-5):
            raise BrokenLaw(self._tell(f"a session alone is answered otherwise, by {np.abs(whole - alone).max():.1e}"))

    def _differing_scores(self, other: Any) -> list[str]:
        return [] if self.model.evaluate(_PROBE).equals(other.evaluate(_PROBE)) else ["evaluate"]

    def _log(self, n: int) -> pl.DataFrame:
        some = pl.Series(self.rng.choice(_SESSIONS.to_list(), size=n, replace=False).tolist(), dtype=_SESSIONS.dtype)
        return _CLICKS.filter(pl.col("session_id").is_in(some.implode()))

    def _draw_plain(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        n = int(self.rng.integers(60, 100) if verb == "fit" else self.rng.integers(5, 30))
        clicks, items = self._log(n), recommenders.ITEMS
        arguments: dict[str, Any] = {"clicks": clicks}
        if verb in ("fit", "partial_fit"):
            arguments["items"] = items
            if self.rng.random() < 0.3:
                arguments["clicks_val"] = self._log(20)
        elif verb == "add_items":
            self.n_new += 1
            arguments = {"items": recommenders.renamed(items[:3], f"new {self.n_new} ")}
        elif verb == "recommend":
            arguments = {"sessions": clicks if self.rng.random() < 0.8 else clicks["item_id"][:3].to_list()}
            arguments |= {"k": int(self.rng.choice([1, 5, 500])), "exclude_seen": bool(self.rng.random() < 0.3)}
        elif verb == "similar":
            arguments = {"item": clicks["item_id"][0]}
        text = f"{n} sessions"
        if is_bad:
            arguments, word = self._spoilt(verb, arguments)
            text += f", {word}"
        given = {
            name: LIBRARIES[self.library](value) if isinstance(value, pl.DataFrame) else value
            for name, value in arguments.items()
        }
        shown = ", ".join(f"{name}={shortened(value)}" for name, value in arguments.items() if name in ("k", "item"))
        return lambda: getattr(self.model, verb)(**given), f"{verb}({text}, {shown})"

    _draw_fit = _draw_partial_fit = _draw_plain

    def _spoilt(self, verb: str, arguments: dict[str, Any]) -> tuple[dict[str, Any], str]:
        frames = [name for name, value in arguments.items() if isinstance(value, pl.DataFrame)]
        if frames and self.rng.random() < 0.6:
            name, spoil = str(self.rng.choice(frames)), str(self.rng.choice([*BAD_LABELS]))
            return arguments | {name: BAD_LABELS[spoil](self.rng, arguments[name])}, f"{name}: {spoil}"
        names = [name for name in inspect.signature(getattr(type(self.model), verb)).parameters if name != "self"]
        name, value = str(self.rng.choice(names)), WRONG[self.rng.integers(len(WRONG))]
        return arguments | {name: value}, f"{name}={value!r}"

    def _draw_set_params(self, verb: str, is_bad: bool) -> tuple[Callable[[], Any], str]:
        names = [name for name in self.model.get_params(deep=False) if name not in LEFT_OUT]
        name, value = str(self.rng.choice(names)), WRONG[self.rng.integers(len(WRONG))]
        before, clicks = self.model.get_params(deep=False)[name], self._log(60)

        def run() -> None:
            try:
                self.model.set_params(**{name: value})
                self.model.fit(clicks, items=recommenders.ITEMS)
            finally:
                self.model.set_params(**{name: before})

        return run, f"set_params({name}={value!r}).fit(60 sessions), then set back after the fit"

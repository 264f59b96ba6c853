"""Estimators of networks that can be cut: trained at several widths, and made smaller to a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import polars as pl
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from tabmtl.estimators.asked import part_of
from tabmtl.estimators.fitted_network import FittedNetwork
from tabmtl.estimators.mixture import MixtureEstimator
from tabmtl.estimators.network import VectorEstimator
from tabmtl.estimators.training import in_training_units
from tabmtl.metrics.scores import Answered
from tabmtl.nn.units import Group, Kept, cut, multiply_adds
from tabmtl.params import check_at_least, check_share
from tabmtl.schema import Batch, unsaid, warn_user
from tabmtl.slimming.prune import Pruner, check_scored, score_all
from tabmtl.slimming.search import Choices
from tabmtl.slimming.shares import Shares, check_slim, kept_by
from tabmtl.slimming.smaller import SmallerNetworks
from tabmtl.slimming.state import AtShare, Form, Slimmed, SlimMixtureState, SlimState
from tabmtl.training.device import find_device, on_device, threads
from tabmtl.training.predict import predict_scores
from tabmtl.training.weights import weight_arrays


def _can(name: str) -> Any:
    """Return the check that a method is there if that of the base class is."""

    def check(estimator: SlimEstimator) -> bool:
        return bool(getattr(super(SlimEstimator, estimator), name))

    return check


class _Cut:
    """Fitted attributes of a network that may be cut; those of a dataclass would be parameters."""

    _slimmed: Slimmed | None = None


@dataclass(kw_only=True, eq=False, repr=False)
class SlimEstimator(_Cut, VectorEstimator):
    """Base of the estimators whose network can be cut to smaller ones.

    Parameters
    ----------
    slim : sequence of float, optional
        Shares of the widths at which the network is trained, 1.0 among them, such as ``(0.25, 0.5, 1.0)``: the layers
        that tasks share, and the hidden layer of each head, can then be cut apart, see `with_budget`. Widths are
        rounded up to multiples of 4. A step takes about twice as long. By default it is trained at its full width
        alone.

    Attributes
    ----------
    slim_losses_ : polars DataFrame
        With ``slim``: what the smaller networks lose. For every share ``shared`` of the shared widths, every share
        ``task_width`` of the heads' hidden layers, and every ``task``: the mean ``loss`` on the validation rows, of
        training rows if there are none, and the ``multiply_adds`` of the network with these widths. The loss of a task
        depends on no other head, so that they tell all mixed choices. They are of the tasks of the last training.
    pruned_ : polars DataFrame
        Of a model that `prune` has returned: a row for the model as it came, with settled statistics, and one for every
        cut, in order. ``cut`` is the name of the layer or bucket, ``left`` the number of units or experts that it has
        then (in a long table, where tasks lose as many each, that of each of several), ``multiply_adds`` the size, and
        ``score/<task>`` the score of each task on the rows of `prune`.
    widths_ : dict of str to int
        Number of units of every hidden layer, and of experts of every bucket with several; without heads of `add_task`.
        The head of the second task is ``heads.1``.
    multiply_adds_ : int
        Multiplications of a row with weights: of matrices, not of tables of embeddings. In a long table, a row
        computes its own task; then their mean over the tasks. Heads of `add_task` are not counted.

    References
    ----------
    Aich, Schulter, Roy-Chowdhury, Chandraker and Suh (2023), "Efficient Controllable Multi-Task Architectures", ICCV,
    arXiv 2308.11744.
    """

    slim: Annotated[Sequence[float] | None, check_slim] = None

    __metadata_request__predict: ClassVar = {"tasks": UNUSED, "budget": UNUSED}
    __metadata_request__predict_proba: ClassVar = {"tasks": UNUSED, "budget": UNUSED}

    _stored: ClassVar[type] = SlimState

    def predict(self, X: Any, *, tasks: str | Sequence[str] | None = None, budget: float | None = None) -> Any:
        """Predict the tasks, by the whole network or by a smaller one.

        Parameters
        ----------
        X : frame or array of shape (n, p)
            Rows with the columns of fit; a frame may have them in any order.
        tasks : str or sequence of str, optional
            Names of the tasks to predict, all by default; other heads are not computed.
        budget : float, optional
            Share of the multiplications of a row, as in `with_budget`; the smaller network is kept for the next call.
            It has none of the thresholds and calibrators that were learned.

        Returns
        -------
        y : like the y of fit
            With a sequence of tasks, the columns of these in its order; with one name, as for a flat target.

        Raises
        ------
        ValueError, TypeError
            If the rows do not fit, a task is unknown or named twice, or as in `with_budget`.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedBottom
        >>> X = np.random.default_rng(0).normal(size=(300, 4))
        >>> model = SharedBottom(slim=(0.25, 1.0), epochs=2, random_state=0).fit(X, X[:, :2])
        >>> model.predict(X, tasks="y1", budget=0.5).shape
        (300,)
        """
        return super().predict(X, tasks=tasks) if budget is None else self._within(budget).predict(X, tasks=tasks)

    @available_if(_can("predict_proba"))
    def predict_proba(self, X: Any, *, tasks: str | Sequence[str] | None = None, budget: float | None = None) -> Any:
        """Predict class probabilities, by the whole network or by a smaller one.

        Parameters
        ----------
        X, tasks, budget : as in `predict`
            The tasks that are named must be classifications.

        Returns
        -------
        probabilities : ndarray, list or dict
            One array (n, K) for a flat target, or for one task that is named. For several targets, a dict from task to
            (n, K) with the classification tasks only; the Classifier faces give scikit-learn's list instead. The
            columns follow ``classes`` of the task, and ``classes_`` of a Classifier face.
        """
        if budget is None:
            return super().predict_proba(X, tasks=tasks)
        return self._within(budget).predict_proba(X, tasks=tasks)

    @available_if(_can("predict_quantiles"))
    def predict_quantiles(
        self, X: Any, *, tasks: str | Sequence[str] | None = None, budget: float | None = None
    ) -> Any:
        """Predict the quantiles of every level, for tasks of the kind "quantiles".

        Parameters
        ----------
        X, tasks, budget : as in `predict`
            The tasks that are named must have several levels.

        Returns
        -------
        quantiles : frame, or ndarray of shape (n, L)
            In the container of y in fit: a column ``<task>_q<level>`` for every level of these tasks, such as
            ``amount_q0.1``, in the order of the tasks. In a row, those of a task never fall. In the long layout, the
            columns have the name of the target.

        Raises
        ------
        AttributeError
            If no task has several levels.
        """
        if budget is None:
            return super().predict_quantiles(X, tasks=tasks)
        return self._within(budget).predict_quantiles(X, tasks=tasks)

    def with_budget(  # type: ignore[override]
        self, budget: float, prefer: Mapping[str, float] | None = None
    ) -> Self:
        """Return the smaller model that loses least within a budget, of a fit with ``slim``.

        It is fitted, and whole in itself: it predicts, is saved, exported and trained on by `partial_fit`. A `fit` of
        it begins anew with all units.

        Among all choices of a share of ``slim`` for the shared widths, and one for the head of each task (of a long
        table, one for all heads), it has the least sum of losses in ``slim_losses_``, each over the size of that of the
        whole network, within the budget. The choice is exact; of equal ones, it is the smaller network. A loss that can
        be 0 or below, such as that of "gamma" or "tweedie", may be small by chance, and its task would then decide
        alone: give such a task a smaller weight in ``prefer``.

        Parameters
        ----------
        budget : float
            Largest share of the multiplications of a row with weights, of those of the whole network
            (``multiply_adds_``). Numbers, tables and attention to sequences are the same in all.
        prefer : mapping of str to float, optional
            Weights of the losses of tasks, 1 where none is given: with ``{"buy": 2}``, the loss of "buy" counts
            twice.

        Returns
        -------
        smaller : like self
            It has learned no decisions: call `calibrate`, `tune_thresholds` and `conformalize` on it. It lacks
            ``slim_losses_`` and ``feature_importances_``, and ``history_`` tells of the fit of self. Its `drift` tells
            of columns alone, or compares with rows that it is given.

        Raises
        ------
        ValueError
            If the model was fitted without ``slim``, is a smaller one itself, or has tasks that were added or removed;
            if the budget is below the smallest network, or a weight does not fit.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedBottom
        >>> X = np.random.default_rng(0).normal(size=(300, 4))
        >>> model = SharedBottom(slim=(0.25, 0.5, 1.0), epochs=2, random_state=0).fit(X, X[:, :2])
        >>> smaller = model.with_budget(0.4, prefer={"y0": 2})
        >>> smaller.multiply_adds_ <= 0.4 * model.multiply_adds_
        True
        """
        slimmed, network = self._cuttable()
        is_long = self.coder_.task_column is not None
        shares = Choices.of(network, slimmed.losses, is_long=is_long).best(budget, prefer)
        groups, part = network.units(), slimmed.at(shares.shared)
        smaller = self._without_units(groups, kept_by(groups, shares), None if part is None else part.statistics)
        if part is not None:
            smaller._take_frames(part)
        return smaller

    def prune(  # type: ignore[override]
        self, X: Any, y: Any, keep: float = 0.4, floor: float = 0.002
    ) -> Self:
        """Return a smaller model, without the experts and hidden units that the tasks can do without.

        It is fitted, and whole in itself: it predicts, is saved, exported and trained on by `partial_fit`. A `fit` of
        it begins anew with all units. No ``slim`` is needed. Greedy steps take units of a layer, or an expert; gates
        share the weight of an expert that goes among those that they see. Each takes the cut with the least rise of the
        losses by what it saves; :mod:`tabmtl.slimming.prune` has the formulas. The same rows give the same model.

        Parameters
        ----------
        X : frame or array of shape (n, p)
            Rows with the columns of fit, which judge the cuts, and settle statistics of batch normalisation: rows that
            the model has not learned from, such as a thousand.
        y : frame, series or array of shape (n,) or (n, T)
            Their targets. Every task needs labels that its score is defined on.
        keep : float, default=0.4
            Share of the multiplications of a row (``multiply_adds_``) at which cutting ends.
        floor : float, default=0.002
            Most that the score of a task, by its metric, may fall on these rows, in all, from that of the network whose
            statistics are settled on them. Cutting ends before ``keep`` where every cut that is left would cost a task
            more, and a warning names these tasks; 0 allows none a loss.

        Returns
        -------
        smaller : like self
            ``pruned_`` tells of its cuts. It has learned no decisions: call `calibrate`, `tune_thresholds` and
            `conformalize` on it. It lacks ``slim_losses_`` and ``feature_importances_``, and ``history_`` tells of the
            fit of self. Its `drift` tells of columns alone, or compares with rows that it is given.

        Raises
        ------
        ValueError, TypeError
            If keep or floor is out of bounds, the rows do not fit or are those of fit (a loaded model cannot know), the
            score of a task is undefined on them, some tasks answer from weights of their own, by ``keep="task"``, or
            the model has tasks that were added or removed.

        References
        ----------
        Ye, Zhang, Chen, Fan and Wang (2023), "Performance-aware Approximation of Global Channel Pruning for Multitask
        CNNs", IEEE TPAMI, arXiv 2303.11923.

        Examples
        --------
        >>> import numpy as np
        >>> from tabmtl import SharedBottom
        >>> X = np.random.default_rng(0).normal(size=(400, 4))
        >>> y = X @ np.ones((4, 2))
        >>> model = SharedBottom(epochs=3, random_state=0).fit(X[:300], y[:300])
        >>> smaller = model.prune(X[300:], y[300:], keep=0.5, floor=0.01)
        >>> smaller.multiply_adds_ < model.multiply_adds_
        True
        """
        check_is_fitted(self)
        check_share("keep", keep, whole=True)
        check_at_least("floor", floor, low=0)
        self._refuse_grown("prune(X, y)")
        self._fitted.check_one("prune cuts")
        answered = self.answer_labelled(X, y, unseen_for="prune", calibrated=False)
        answered = answered._replace(tasks=[task.at(None) for task in answered.tasks])
        check_scored(answered)
        network, device = self.fitted_network()
        batch = self.coder_.after.read(self._preprocessed(X), y)
        rows = on_device(in_training_units(batch, self.coder_), device)
        with threads(self.n_jobs, network):
            pruner = Pruner(
                network,
                rows,
                self._loss(self.tasks_),
                partial(self._judge, rows=rows, answered=answered),
                form=self._lost,
                precision=self.precision,
            )
            steps = pruner.prune(keep, floor)
            with unsaid():  # of experts that fit has told of
                measured = self._inspect(pruner.network, replace(rows, y=None, weight=None))
        found = self._smaller(pruner.network, pruner.form)
        found.__dict__ |= measured | {"_pruned": steps}
        return found

    @property
    def pruned_(self) -> pl.DataFrame:
        """Cuts of `prune`; see the attributes."""
        check_is_fitted(self)
        if self._pruned is None:
            raise AttributeError("pruned_ is of a model that prune(X, y) has returned")
        return self._pruned

    @property
    def slim_losses_(self) -> pl.DataFrame:
        """Losses of the smaller networks; see the attributes."""
        check_is_fitted(self)
        if self._slimmed is None:
            raise AttributeError(f"slim_losses_ is of a fit with slim, and {self._lacking()}")
        return self._slimmed.losses

    @property
    def widths_(self) -> dict[str, int]:
        """Numbers of units; see the attributes."""
        check_is_fitted(self)
        return {group.name: group.n_units for group in self._units()}

    @property
    def multiply_adds_(self) -> int:
        """Multiplications of a row with weights; see the attributes."""
        check_is_fitted(self)
        return multiply_adds(self._base_network(), is_long=self.coder_.task_column is not None)

    def with_weights(self, weights: Mapping[str, np.ndarray], X: Any = None) -> Self:
        """Return a copy of the fitted network with other weights, which has learned no decisions.

        What was measured of smaller networks is not true of them, so that `with_budget` refuses the copy.

        Parameters
        ----------
        weights : mapping of str to ndarray
            As in ``weights_``, of the same names and shapes.
        X : frame or array of shape (n, p), optional
            Rows that statistics of batch normalisation are settled on; by default the given ones stay.

        Returns
        -------
        copy : like self
            What fit has told, such as ``history_``, is that of self.
        """
        found = super().with_weights(weights, X)
        found._slimmed = None
        return found

    def _check_params(self) -> None:
        super()._check_params()
        if self.slim is None:
            return
        cures = {
            "expert_norm": ("layer", "looks at all units of an expert; say expert_norm='batch' or 'none'"),
            "keep": ("task", "keeps the weights of several epochs; say keep='mean'"),
        }
        for name, (value, why) in cures.items():
            if getattr(self, name, None) == value:
                raise ValueError(f"slim cuts the units of one network, and {name}={value!r} {why}")

    def _within(self, budget: float) -> Self:
        """Return the smaller model of a budget, which is kept as long as what was learned."""
        check_is_fitted(self)
        check_share("budget", budget, whole=True)
        key = ("budget", budget, id(self.coder_))  # which is kept beside the smaller model, so that no other has its id
        smaller: Self = part_of(self._fitted, key, lambda: (self.coder_, self.with_budget(budget)))[1]
        return smaller.set_params(device=self.device, precision=self.precision, n_jobs=self.n_jobs)

    def _cuttable(self) -> tuple[Slimmed, Any]:
        """Return what fit has measured of smaller networks, and the network.

        Raises
        ------
        ValueError
            If it cannot be cut.
        """
        check_is_fitted(self)
        self._refuse_grown("with_budget(0.5)")
        if self._slimmed is None:
            raise ValueError(
                f"a budget needs a fit at several widths, such as slim=(0.25, 0.5, 1.0), and {self._lacking()}"
            )
        return self._slimmed, self.fitted_network()[0]

    def _lacking(self) -> str:
        """Say why nothing is known of smaller networks."""
        if self._fitted.removed_units is not None:
            return "this model is a smaller one; ask the one that it was cut from"
        if self._fitted_params["slim"] is None:
            return "this model was last trained with slim=None"
        return "the weights of this model are not those of its fit"

    def _refuse_grown(self, call: str) -> None:
        """Raise a ValueError for a network with tasks that came or went after its fit."""
        if self._fitted.lineage is not None:
            raise ValueError(
                f"add_task or remove_task has changed the tasks of this network, and new heads read all its units; cut "
                f"it first: model.{call}.add_task(X, y)"
            )

    @property
    def _lost(self) -> Form:
        """Units that the network has lost since it was built."""
        found: Any = self._fitted.removed_units
        return found or Form.whole()

    def _without_units(
        self, groups: Sequence[Group], kept: Kept, statistics: Mapping[str, np.ndarray] | None = None
    ) -> Self:
        """Return a copy that has lost units and has learned no decisions; statistics of batches are cut, or given."""
        network = self._base_network()
        return self._smaller(cut(network, groups, kept), self._lost.cut(groups, kept), statistics)

    def _smaller(self, smaller: Any, form: Form, statistics: Mapping[str, np.ndarray] | None = None) -> Self:
        """Return a copy with a smaller network of this form, which has learned no decisions."""
        if self.coder_.labels.decisions is not None:
            warn_user(
                "the smaller network gives other answers, so what calibrate, tune_thresholds and conformalize have "
                "learned is left out; call them on the smaller model"
            )
        whole = self._fitted.with_weights(weight_arrays(smaller.state_dict()) | dict(statistics or {}))
        n_features_out = whole.n_features_out * smaller.heads.d_in // self._base_network().heads.d_in
        found = self._of_fitted(replace(whole, removed_units=form, n_features_out=n_features_out))
        found._slimmed, found._pruned = None, None
        return found

    def _judge(self, network: Any, rows: Batch, answered: Answered) -> dict[str, float]:
        """Return the scores of a smaller network on labelled rows."""
        scores = predict_scores(network, rows, self.precision, batch_size=self.batch_size_, link=self._fitted.link)
        outputs = self.coder_.labels.outputs([own.cpu().numpy() for own in scores])
        return score_all(answered._replace(outputs=outputs))

    def _take_frames(self, part: AtShare) -> None:
        """Take over what was measured of experts; a network without experts has none."""

    def _units(self) -> list[Group]:
        """Return the groups of units of the fitted network."""
        return self._base_network().units()

    def _base_network(self) -> Any:
        """Return the fitted network without heads that came later."""
        return self._fitted.grown(find_device(self.device)).base

    def _beside(self, before: FittedNetwork | None) -> Callable[..., SmallerNetworks] | None:
        is_whole = before is None or (before.removed_units is None and before.lineage is None)
        return None if self.slim is None or not is_whole else partial(SmallerNetworks, self)

    def _reset_attributes(self, before: FittedNetwork | None) -> dict[str, Any]:
        return {"_slimmed": None, "_pruned": None if before is None else self._pruned}

    def _restore(self, state: Any) -> None:
        super()._restore(state)
        if self._slimmed is None:
            return
        network = self._base_network()
        ones = (1.0,) * len(network.heads.layers_of_tasks())
        for part in self._slimmed.parts:
            groups = network.units()
            buffers = dict(cut(network, groups, kept_by(groups, Shares(part.share, ones))).named_buffers())
            if any(name not in buffers or own.shape != buffers[name].shape for name, own in part.statistics.items()):
                raise ValueError(f"the statistics of the share {part.share} are not those of its network")


@dataclass(kw_only=True, eq=False, repr=False)
class SlimMixture(SlimEstimator, MixtureEstimator):
    """Base of the mixtures of experts whose network can be cut to smaller ones."""

    _stored: ClassVar[type] = SlimMixtureState

    def _take_frames(self, part: AtShare) -> None:
        self.expert_utilisation_, self.experts_ = part.expert_utilisation, part.experts
        self.dead_expert_rate_ = float(part.experts["dead"].mean())  # type: ignore[index, arg-type]

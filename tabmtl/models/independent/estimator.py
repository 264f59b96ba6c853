"""Independent tasks: one single-task model per target, the reference of every multi-task gain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle
from typing import Annotated, Any, ClassVar, Literal

import lightgbm as lgb
import numpy as np
import polars as pl
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from tabmtl.base.forks import count_threads
from tabmtl.base.params import NonNegative, WholeShare
from tabmtl.base.schema import Batch, Columns
from tabmtl.encode import TableCoder
from tabmtl.encode.drift.profile import sample_size
from tabmtl.encode.drift.readings import Answers
from tabmtl.encode.read import without_columns
from tabmtl.estimators.base import FromFitted, NotHere
from tabmtl.estimators.boosted.border import tree_matrix
from tabmtl.estimators.boosted.lightgbm import Leaves, LightGBMEstimator
from tabmtl.estimators.drifting import asking, drawn
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.learner import Marks
from tabmtl.estimators.mixing.levels import LevelMeans, LevelRows
from tabmtl.estimators.model import Model
from tabmtl.estimators.rows import FitRows, draw
from tabmtl.model_selection.stratify import deal
from tabmtl.model_selection.suspects import warn_of_random_split
from tabmtl.model_selection.times import NoFreshRowsError
from tabmtl.models.independent.choice import CONFIGURATIONS, TreesOfTask, learns_again
from tabmtl.models.independent.fitted import FittedTasks
from tabmtl.models.independent.folds import MOST_FOLDS
from tabmtl.models.independent.foreign import Foreign
from tabmtl.models.independent.grower import Grower, check_given, monotone_constraints
from tabmtl.models.independent.mixture import FAMILIES, Mixed, Mixer
from tabmtl.models.independent.onward import with_rounds
from tabmtl.models.independent.quantiles import TreesOfQuantiles
from tabmtl.models.independent.rows import Sample, Take, TaskRows, labelled_rows, reading
from tabmtl.models.independent.rules import (
    check_estimator,
    check_families,
    check_foreign,
    check_together,
    check_tune,
)
from tabmtl.models.independent.state import IndependentState
from tabmtl.models.independent.told import (
    best_name,
    board_of,
    describe_model,
    describe_tried,
    score_table,
    scores_of,
    warn_of_folds,
    warn_of_lost,
)
from tabmtl.models.independent.unseen import without_labels
from tabmtl.targets import Task
from tabmtl.targets.quantile import Quantile
from tabmtl.training.run import running
from tabmtl.training.watch import Describe, Watch

Learners = Mapping[int, TreesOfTask | TreesOfQuantiles | Foreign]


_MOST_TREES = 1_000
_NO_SHARDS = "Shards are for LightGBM only; give other estimators a frame as X"


@dataclass(kw_only=True, eq=False, repr=False)
class IndependentTasks(LightGBMEstimator):
    """One model per task, each trained on its own labelled rows only, but for means of levels (see ``families``).

    The default averages the answers of three ``families`` of models: LightGBM, a forest, and a linear model on pieces
    of the columns. ``families=("lightgbm",)`` is LightGBM alone. Any scikit-learn estimator can take its place. It is
    fitted on X as it was given, without the rows that lack a label.

    LightGBM reads categories and missing values as they are, stops early for every task, and grows at most 1000 trees.
    With many classes, a leaf adds at most 20 logits before the learning rate (``max_delta_step``), because a few rows
    of a rare class would end the training early otherwise.

    Parameters
    ----------
    classifier, regressor : estimator, optional
        Estimator that is cloned for every classification, and for every regression task. A LightGBM estimator is
        trained like the default, with its own parameters, also its ``class_weight`` and ``random_state``, but for those
        that contradict the task, such as ``alpha`` beside the levels of quantiles, which raise an error. Other
        estimators get the ``groups`` of fit if they take them. Faces of a multi-task model, such as
        ``SharedTreesClassifier()`` and ``SharedTreesRegressor()``, make the control that learns every task alone.
    tune : "all" or sequence of str, default=()
        Names of configurations to choose from; without names, the estimator's own parameters are taken. "small" has 8
        leaves, "mid" 16 leaves of at least 50 rows and a strong penalty, "big" 63 leaves, and "default" the estimator's
        own parameters. All except "default" draw 80 % of the rows, and 40 or 50 % of the columns, for every tree. Other
        parameters are the estimator's own. All tasks get the configuration with the highest mean of
        ``configuration_scores_``, the first of equal ones. Tasks whose trees are chosen by folds ignore it, such as
        those with fewer than 5 000 labels that several ``families`` learn: see ``early_stopping``. If all do, names
        have no effect, and there is a warning; "all" stands for those that can be judged.
    families : "all" or sequence of str, default="all"
        What learns a task: "lightgbm", and beside it "extra_trees", a forest of scikit-learn's extremely randomised
        trees, and "additive", a ridge or logistic regression on pieces of every column; of ordered classes the pieces
        move all cumulative logits alike. Each family chooses its own
        settings. The answers of all are averaged by weights that suit the labels not seen in the fit, chosen for each
        task: from folds below 5 000 labels, else from rows set aside or y_val. Few labels mix all about equally. "all"
        was clearly ahead of LightGBM alone at few labels, and takes one to three times its time there; with all labels
        of 3 000 rows it took 2 to 11 times that of LightGBM alone with ``tune="all"`` (seven sets).

        LightGBM learns alone a task of more than 20 000 labels, one of a given ``classifier`` or ``regressor``, and one
        whose `Task` is ``monotone`` in a column, which only LightGBM can promise.
        Where a column of categories has at least 8 levels, families also read means: for each target, the mean of a
        level, drawn to that of all rows by 3 to 100 labels, and its number of rows. Numbers give the mean of ranks.
        So targets with many labels tell a scarce one about levels. The forest takes no means, all, or those of the
        target alone, whichever predicts best, and so do the curves below 600 labels; from there on, the curves take all
        or none, and LightGBM none. Below, LightGBM takes all or none. A row reads means of other folds than its own,
        and none of the rows that judge. There are no means in tables of more than 256 of them, in the long layout with
        more than 256 tasks, for rows with times, and for ``families=("lightgbm",)``. ``partial_fit`` adds new rows to
        the sums and counts behind them.

        The linear model is left out where labels times pieces exceed 16 million, such as 20 000 labels and 900 columns.
        With "all", LightGBM also learns alone on `tabmtl.scale.Shards`, and without ``early_stopping``, where nothing
        weighs the answers; families given by name raise an error there.
    early_stopping : bool, default=True
        Stop LightGBM if a task's validation score (ROC AUC, log loss for many classes, RMSE) has not improved for
        ``patience`` trees. Without labels of the task in y_val, ``validation_fraction`` of its rows is set aside to
        find the number of trees. All rows are then fitted with this number, so no row is lost. If the fit of all rows
        predicts the rows set aside clearly worse than the fit without them (a loss a quarter higher, and beyond
        chance), the fit without them is kept, with a warning. If ROC AUC stops the default LightGBM before 20 trees, it
        takes 20 trees if they have a lower log loss than the shares of the classes.

        Without labels in y_val, some tasks are too small to split: those with fewer than 600 labels, and those with
        fewer than 5 000 labels that several families learn, or that LightGBM alone can learn for their kind, or of
        which fewer than 100 lie outside the most frequent class. For these, the default LightGBM chooses its trees by
        their loss in ten folds, or in five of at least 600 labels; with fewer than ten rows, each row is a fold. It
        chooses the number of trees, at least 20, and one of five shapes: 2, 7 or 8 leaves, "mid", or the estimator's
        own parameters. Each fold takes the trees that predict the other folds best, so that no answer to a fold comes
        from trees that its labels chose. The mean of the trees of all folds is the model, before the link to
        probabilities. Numbers whose loss is then less than a tenth of that of a constant have next to no noise: 8
        leaves of at least one row take the place of "mid", and if they win, the model is the mean of three fits of all
        rows. A constant answers if it predicts better than what the folds chose. For classes, the constant is the
        shares of the classes; it must win by more than two standard errors, and there is a warning. A constant also
        answers, with a warning, for a task whose labels all lie in one of several ``groups``, or are all of one
        ``time``, or whose newest rows, unlike those of other tasks, are all of groups with older ones.

        Given times, folds go forward: each of the newer five of six blocks is judged by what learned all older rows.
        All rows are then fitted with what was chosen, because models of the first folds know old rows alone.

    Attributes
    ----------
    estimators_ : dict of str to estimator
        The fitted model of every task: a LightGBM Booster, which takes rows from `encode`, a scikit-learn estimator,
        or a mixture of ``families``, which only this estimator asks.
    family_weights_ : polars.DataFrame
        One row per task, and one column per family: the weight of its answers.
    leaderboard_ : polars.DataFrame
        One row per family and task, and one of the mixture: the score of answers to rows that the family has not seen;
        see `MultiTaskEnsemble`. In folds, these rows have not chosen its settings either; rows set aside, or of y_val,
        have stopped LightGBM.
    configuration_ : str
        Name of the configuration that was taken: "default" without ``tune``, and the first one if no task is judged.
    configuration_scores_ : polars.DataFrame
        One row per task, and one column per configuration that was tried: the score of the task's validation labels by
        its own metric, higher is better. Null if no validation labels judge the task, as where folds do.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import IndependentTasks
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.column_stack([X[:, 0], X[:, 1] * 10])
    >>> y[:50, 1] = np.nan  # unlabelled
    >>> IndependentTasks(random_state=0).fit(X, y).predict(X).shape
    (200, 2)
    """

    classifier: Annotated[BaseEstimator | None, check_estimator] = None
    regressor: Annotated[BaseEstimator | None, check_estimator] = None
    num_leaves: Leaves = 31
    colsample_bytree: WholeShare = 0.8
    reg_lambda: NonNegative = 0.0

    tune: Annotated[Literal["all"] | Sequence[str], check_tune] = ()

    families: Annotated[Literal["all"] | Sequence[str], check_families] = "all"

    __learns_all_rows__: ClassVar[bool] = True

    _keeps_monotone: ClassVar[bool] = True

    _stored: ClassVar[type] = IndependentState

    estimators_ = FromFitted("estimators")
    family_weights_ = FromFitted("family_weights")
    leaderboard_ = FromFitted("leaderboard")
    configuration_ = FromFitted("configuration")
    configuration_scores_ = FromFitted("configuration_scores")
    # what a file keeps beside them
    _trees = FromFitted("trees")
    _mixtures = FromFitted("mixtures")
    _levels = FromFitted("levels")
    _n_labels = FromFitted("n_labels")

    export_task = NotHere("its models are in estimators_[task], LightGBM by families=('lightgbm',)")

    def __check_params__(self) -> None:
        super().__check_params__()
        given = [name for name in ("classifier", "regressor") if getattr(self, name) is not None]
        named = self.families if self.families != "all" and self._may_mix else ()
        check_together(given, named, self.tune, self.early_stopping)

    @property
    def _may_mix(self) -> bool:
        """Whether families beside LightGBM may learn."""
        return self.families == "all" or len(self.families) > 1

    @property
    def answers_unseen(self) -> bool:
        """Whether the models can answer the rows of fit without having seen them; see `fit_unseen`."""
        is_own = type(self)._fit is not IndependentTasks._fit
        return self.early_stopping and self.classifier is None and self.regressor is None and not is_own

    def fit_unseen(
        self, X: Any, y: Any, *, fold: np.ndarray, sample_weight: Any = None, groups: Any = None
    ) -> list[np.ndarray]:
        """Fit, and answer every row by models that have not seen its label; `answers_unseen` says whether that can be.

        Parameters
        ----------
        X, y, sample_weight, groups : as in `fit`
        fold : ndarray of int, shape (n,)
            Number of the fold of every row. Folds choose the models of every task, in place of rows set aside.

        Returns
        -------
        answers : list of ndarray
            As of `answer`; NaN at labels that no fold can judge, as they are the only one of their task, or of one
            group.
        """
        learner = self.__learner__()
        learner.check(X)
        with running().fit(self, X=X, y=y, sample_weight=sample_weight), ExitStack() as stack:
            coder, rows, _ = learner.rows(stack, X, y, sample_weight, Marks(groups))
            fitted, found = self._fit_rows(coder.after, rows, None, self._seed(), fold)
            self._set_fitted(coder, {"_fitted": fitted})
        batch = rows.read()
        answers = self._model.answer(batch, self, X)
        for t, own in found.items():
            judged = labelled_rows(batch, t)[0]
            answers[t if batch.task is None else 0][judged] = np.nan if own.answers is None else own.answers
        return answers

    def _fit(self, coder: TableCoder, rows: FitRows, valid: FitRows | None, seed: int) -> dict[str, Any]:
        fitted, found = self._fit_rows(coder, rows, valid, seed, None)
        if fitted.has_foreign:
            return {"_fitted": fitted}  # models of others may be slow to ask, or fail
        if valid is not None:
            return {"_fitted": fitted, "answered": asking(drawn(coder, valid, 0), self, are_learned=False)}
        return {"_fitted": fitted, "answered": partial(self._answers_of_fit, coder, rows, found)}

    def _answers_of_fit(
        self, coder: TableCoder, rows: FitRows, found: Mapping[int, Mixed], model: Model
    ) -> list[Answers]:
        """Return answers to some rows of fit; where all models have some, also those of what has not learned them."""
        places = draw(len(rows), sample_size(coder.features.columns))
        some = rows.read().rows(places)
        learned = Answers(model.answer(some, self), some.task, are_learned=True)
        if not all(t in found and found[t].answers is not None for t in range(len(coder.labels.tasks))):
            return [learned]
        return [learned, without_labels(learned, some, places, found)]

    def _fit_rows(
        self, coder: TableCoder, rows: FitRows, valid: FitRows | None, seed: int, fold: np.ndarray | None
    ) -> tuple[FittedTasks, dict[int, Mixed]]:
        """Return the fitted models, and the answers of trees to the rows of their tasks that judged them."""
        is_apart = rows.frame is None
        levels = None if is_apart else self._learn_levels(coder, rows)
        whole = None if levels is None else levels.whole
        learners = dict(enumerate(self._learners(coder, seed, is_apart, whole, fold is not None)))
        are_foreign = [isinstance(learner, Foreign) for learner in learners.values()]
        has_foreign = any(are_foreign)
        if has_foreign and is_apart:
            raise TypeError(_NO_SHARDS)
        if self.families != "all" and self._may_mix and is_apart:
            raise TypeError("families other than 'lightgbm' learn a frame, and X is Shards: say families=('lightgbm',)")
        batch, held_out = rows.read(), None if valid is None else valid.read()
        if batch.time is valid is fold is None and self.early_stopping and not all(are_foreign):
            warn_of_random_split(rows.dates, len(rows))
        if levels is not None and fold is None:
            fold = deal(batch.y, coder.labels.tasks, batch.task, batch.group, MOST_FOLDS, seed)
        take: Take = partial(TaskRows.of, batch, held_out, fold)
        if levels is not None and fold is not None:
            reads = {t for t, own in learners.items() if not isinstance(own, Foreign) and own.reads_levels}
            take = reading(levels, batch, held_out, fold, reads)
        goes_on = learns_again(rows.n_labels, self._may_mix) if valid is None else self._may_mix
        again = has_foreign or (self.early_stopping and goes_on)
        X = without_columns(rows.frame, coder.dropped) if has_foreign else None
        names = [*(CONFIGURATIONS if self.tune == "all" else self.tune)] or ["default"]
        fitted, unseen = self._fit_all(dict(enumerate(coder.labels.tasks)), learners, take, again, X, names)
        counts = tuple(rows.n_labels.astype(np.int64).tolist())
        return replace(fitted, n_labels=counts, levels=whole), unseen

    def _learn_levels(self, coder: TableCoder, rows: FitRows) -> LevelRows | None:
        """Learn means of levels, which families read; None where there are none, or rows have times."""
        is_own = self.classifier is None or self.regressor is None
        batch = rows.read()
        is_one_group = batch.group is not None and not np.ptp(batch.group)
        if not (is_own and self._may_mix and self.early_stopping and batch.time is None) or is_one_group:
            return None
        return LevelRows.learn(batch, coder.features.columns, coder.labels.tasks)

    def _go_on(self, coder: TableCoder, rows: FitRows, seed: int) -> dict[str, Any]:
        """Append rounds to the models of the tasks with new labels."""
        fitted, batch, n_new = self._fitted, rows.read(), rows.n_labels
        learners = {t: own for t, own in enumerate(self._learners(coder, seed, True, fitted.levels)) if n_new[t]}
        n_rounds, n_known = self.partial_rounds, fitted.n_known(n_new)
        # by the means that were known before these rows
        take: Take = partial(TaskRows.of, fitted.extended(batch), None, None)

        def go_on(t: int, part: Watch) -> Any:
            given, learner = take(t), learners[t]
            if isinstance(learner, Foreign):
                return learner.go_on(fitted.estimator(t), without_columns(rows.frame, coder.dropped), given)
            return with_rounds(learner, fitted.models[t], Sample.of(given.rows), n_rounds, int(n_known[t]), part)

        found = self._each(learners, go_on, self._watch, "task", describe_model)
        return {"_fitted": fitted.onward(found, batch, n_new)}

    def _add_tasks(self, coder: TableCoder, batch: Batch, head: Any, freeze: Any, seed: int) -> dict[str, Any]:
        """Fit the new tasks, each alone, by the configuration that the others have."""
        fitted = self._fitted
        n_known = len(fitted.tasks)
        tasks = dict(enumerate(coder.labels.tasks[n_known:], n_known))
        learners = dict(enumerate(self._learners(coder, seed, False, fitted.levels)[n_known:], n_known))
        foreign = [own for own in learners.values() if isinstance(own, Foreign)]
        if foreign:
            raise ValueError(
                f"task {foreign[0].task.name!r} would be learned by {type(foreign[0].base).__name__}, which reads X by "
                "itself, and add_task fits the models of families; fit again with all tasks"
            )
        take: Take = partial(TaskRows.of, fitted.extended(batch), None, None)
        counts = batch.count_labels(n_known + len(tasks))[n_known:]
        again = self.early_stopping and learns_again(counts, self._may_mix)
        found, _ = self._fit_all(tasks, learners, take, again, None, [fitted.configuration])
        return {"_fitted": fitted.with_tasks(replace(found, n_labels=tuple(map(int, counts))))}

    def _fit_all(
        self,
        tasks: Mapping[int, Task],
        learners: Learners,
        take: Take,
        again: bool,
        X: Any,
        names: Sequence[str],
    ) -> tuple[FittedTasks, dict[int, Mixed]]:
        """Fit tasks, all by the configuration that suits them."""
        trees = {t: learner for t, learner in learners.items() if not isinstance(learner, Foreign)}
        tried = self._try_all(trees, take, names, self._watch.part(1 / 2 if again else 1))
        judged = scores_of(tried)
        scores = score_table(tasks, names, judged)
        best = best_name(scores, names)

        def finish(t: int, part: Watch) -> Any:
            given, learner = take(t), learners[t]
            if isinstance(learner, Foreign):
                return Mixed(learner.fit(X, given, part))
            return learner.finish(given, tried[t][best], part)

        done = self._each(learners, finish, self._watch, "final model", describe_model)
        warn_of_folds(self.tune, scores)
        warn_of_lost([tasks[t] for t in sorted(judged) if any(lost for _, lost in judged[t].values())])
        fitted = FittedTasks(
            tasks=tuple(tasks.values()),
            models=tuple(done[t].model for t in tasks),
            leaderboard=board_of(tasks, done),
            configuration=best,
            configuration_scores=scores,
        )
        return fitted, {t: done[t] for t in tried}

    def _try_all(self, trees: Mapping[int, Any], take: Take, names: Sequence[str], watch: Watch) -> dict[int, Any]:
        """Try all configurations; a constant answers tasks, unless these are all, whose newest rows cannot judge."""
        n_stale = 0

        def find(t: int, part: Watch) -> Any:
            nonlocal n_stale
            try:
                return trees[t].try_all(take(t), names, part)
            except NoFreshRowsError:
                n_stale += 1
                if n_stale == len(trees):
                    raise
                return dict.fromkeys(names, trees[t].constant(take(t)))

        return self._each(trees, find, watch, "task", describe_tried)

    def _each(
        self, learners: Learners, do: Callable[[int, Watch], Any], watch: Watch, unit: str, describe: Describe
    ) -> dict[int, Any]:
        """Do something for every task, within its share of the time that is left."""
        done: dict[int, Any] = {}
        with watch.without_limit().steps(len(learners), unit, describe) as step:
            for t, learner in learners.items():
                done[t] = do(t, watch.part(1 / (len(learners) - len(done))))
                step((learner.task, done[t]))
        return done

    def _learners(
        self, coder: TableCoder, seed: int, is_apart: bool, levels: LevelMeans | None, in_folds: bool = False
    ) -> list[TreesOfTask | TreesOfQuantiles | Foreign]:
        """Return what finds the model of every task; rows apart, in files, are for LightGBM."""
        columns = coder.features.columns if levels is None else levels.columns(coder.features.columns)
        families = FAMILIES if self.families == "all" else self.families
        others = families if self.early_stopping and not is_apart else ()
        learners: list[TreesOfTask | TreesOfQuantiles | Foreign] = []
        grow = partial(self._trees_of, columns=columns, families=others, seed=seed, in_folds=in_folds)
        scales = coder.labels.scale.tolist()
        for task, scale in zip(coder.labels.tasks, cycle(scales)):  # a long table has one
            base = self.classifier if task.is_classification else self.regressor
            if base is not None and not isinstance(base, lgb.LGBMModel):
                check_foreign(task, base)
                own = Foreign(task=task, base=base, features=coder.features, task_column=coder.task_column, seed=seed)
                learners.append(own)
                continue
            if base is not None:
                check_given(task, base.get_params())
            if task.kind.levels:
                several = [replace(task, kind=Quantile(level), metric=None) for level in task.kind.levels]
                each = [grow(own, base=base, scale=scale) for own in several]
                learners.append(TreesOfQuantiles(task=task, levels=each))
            else:
                learners.append(grow(task, base=base, scale=scale))
        return learners

    def _trees_of(
        self,
        task: Task,
        *,
        base: lgb.LGBMModel | None,
        scale: float,
        columns: Columns,
        families: Sequence[str],
        seed: int,
        in_folds: bool,
    ) -> TreesOfTask:
        """Return what finds the trees of a task, or of one of its levels."""
        bounds = monotone_constraints(task, columns)
        params = self._lightgbm_params(base, task, scale, seed) | bounds
        grower = Grower(
            task=task,
            columns=columns,
            n_trees=params.pop("n_estimators"),
            class_weight=params.pop("class_weight", None),
            params=params,
            patience=self.patience,
            takes_few=base is None and self.early_stopping,
        )
        fraction = self.validation_fraction if self.early_stopping else None
        mixer = Mixer(grower=grower, families=families if base is None and not bounds else (), seed=seed)
        return TreesOfTask(grower=grower, fraction=fraction, seed=seed, mixer=mixer, in_folds=in_folds)

    def _lightgbm_params(self, base: lgb.LGBMModel | None, task: Task, scale: float, seed: int) -> dict[str, Any]:
        """Return parameters of `lightgbm.train`; those of a given estimator take precedence."""
        own = self._tree_options() | {"n_estimators": _MOST_TREES}
        if task.width > 1:
            own["max_delta_step"] = task.kind.longest_step
        given = own if base is None else base.get_params()
        params = {name: value for name, value in given.items() if value is not None}
        if callable(params.get("objective")):
            raise ValueError(f"task {task.name!r}: the objective of LightGBM must be a name, got a function")
        if params.pop("importance_type", "split") != "split":
            raise ValueError("importance_type has no effect here; ask estimators_[task].feature_importance(...) for it")
        params["num_threads"] = count_threads(params.pop("n_jobs", self.n_jobs))
        ours = {"random_state": seed, "verbosity": -1, "deterministic": True, "force_col_wise": True}
        kind = task.kind
        of_kind = {
            name: value * scale if name in kind.lightgbm_scaled else value for name, value in kind.lightgbm.items()
        }
        return {**ours, **of_kind, **params, "num_class": task.width}

    def encode(self, X: Any) -> pl.DataFrame:
        """Encode rows for the LightGBM models in `estimators_`, as the base does.

        Where models may read means of levels, these are columns between the numeric and the categorical ones.
        """
        check_is_fitted(self)
        fitted = self._fitted
        columns = fitted.columns(self.coder_.features.columns)
        matrix = tree_matrix(fitted.extended(self._read_rows(self._preprocessed(X))))
        return pl.DataFrame(matrix, schema=[*columns.numeric, *columns.categorical])

    def _fitted_of(self, coder: TableCoder, parts: dict[str, Any]) -> FittedTasks:
        pairs = zip(parts.pop("trees"), parts.pop("mixtures"), strict=True)
        models = tuple(own for pair in pairs for own in pair if own is not None)
        return FittedTasks(tasks=tuple(coder.labels.tasks), models=models, **parts)


class IndependentTasksClassifier(ClassifierFace, IndependentTasks):
    """`IndependentTasks` whose every task is a classification."""


class IndependentTasksRegressor(RegressorFace, IndependentTasks):
    """`IndependentTasks` whose every task is a regression."""

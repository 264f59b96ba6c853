"""MultiTaskEnsemble: out-of-fold answers of several models, mixed for each task by the likelihood of its labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import polars as pl
from sklearn.base import clone

from tabmtl.base.forks import count_threads
from tabmtl.base.params import Jobs, check_count_or_auto
from tabmtl.columns.declared import ignored
from tabmtl.columns.roles import leave_out
from tabmtl.encode import TableCoder
from tabmtl.encode.drift.profile import sample_size
from tabmtl.encode.drift.readings import Answers
from tabmtl.ensemble.fitted import FittedMixture
from tabmtl.ensemble.folds import Folds, Table
from tabmtl.ensemble.levels import LevelColumns
from tabmtl.ensemble.models import LINEAR, MIXTURE, candidates, check_models, named_set
from tabmtl.ensemble.stack import LinearStack
from tabmtl.ensemble.trials import Trial, Trials, count_fits
from tabmtl.estimators.base import FromFitted, NotHere
from tabmtl.estimators.faces import ClassifierFace, RegressorFace
from tabmtl.estimators.mixing.judged import Choice, Judged, choose_weights, leaderboard
from tabmtl.estimators.mixing.levels import LevelMeans
from tabmtl.estimators.mixing.stretch import Stretch
from tabmtl.estimators.model import Model
from tabmtl.estimators.rows import FitRows, draw
from tabmtl.estimators.tables import MultiTaskEstimator, TableState
from tabmtl.model_selection.suspects import warn_of_random_split
from tabmtl.models.independent import IndependentTasks


@dataclass(frozen=True, kw_only=True, eq=False)
class EnsembleState(TableState):
    """Fitted attributes that the file of an ensemble keeps; every model is a folder in its folder."""

    estimators_: dict[str, tuple[MultiTaskEstimator, ...]]
    stack_: LinearStack | None
    stretch_: Stretch
    model_weights_: pl.DataFrame
    leaderboard_: pl.DataFrame
    _levels: LevelMeans | None = None

    #: Fields that files of earlier releases lack.
    later_fields: ClassVar[tuple[str, ...]] = (*TableState.later_fields, "levels")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._levels is not None:
            self._levels.check(self.coder_.after.features.columns, self.coder_.labels.tasks)
        tasks, mixed = self.coder_.labels.tasks, self.model_weights_.columns[1:]
        names = [*self.estimators_] + [LINEAR] * (self.stack_ is not None)
        if self.model_weights_.columns[:1] != ["task"] or not (mixed and set(mixed) <= set(names)):
            raise ValueError(
                f"the weights have columns {self.model_weights_.columns}, expected 'task' and some of {names}"
            )
        if self.model_weights_["task"].to_list() != [task.name for task in tasks]:
            raise ValueError(f"the weights are of the tasks {self.model_weights_['task'].to_list()[:5]}")
        sizes = {len(parts) for parts in self.estimators_.values()}
        if not sizes or 0 in sizes or len(sizes - {1}) > 1:
            raise ValueError(f"the candidates have {sorted(sizes)} models, expected one each, or one per fold")
        for name, parts in self.estimators_.items():
            if any(part.tasks_ != tasks for part in parts):
                raise ValueError(f"a model of {name!r} has other tasks than the ensemble")
            for part in parts:
                self._check_columns(name, part)
        n_read = len(next(iter(self.estimators_.values())))
        width = sum(task.width for task in tasks)
        if self.stack_ is not None and self.stack_.coef.shape[:2] != (n_read, width):
            raise ValueError(f"the linear models have the shape {self.stack_.coef.shape}")
        if (len(self.stretch_.center), len(self.stretch_.factor)) != (width, len(tasks)):
            raise ValueError(f"answers are stretched by {len(self.stretch_.factor)} factors, expected {len(tasks)}")

    def _check_columns(self, name: str, part: MultiTaskEstimator) -> None:
        """Raise a ValueError unless a model reads columns of the ensemble, of the same kinds."""
        own, theirs = self.coder_.features, part.coder_.features
        means = () if self._levels is None else LevelColumns.of(self._levels, self.coder_.after).names
        strange = {*theirs.origins} - {*own.origins, *means}
        strange |= {*theirs.origins_by_form["codes"]} - {*own.origins_by_form["codes"], *own.dates}
        if strange or part.coder_.task_column != self.coder_.task_column:
            raise ValueError(
                f"a model of {name!r} was fitted on other columns than the ensemble: {sorted(strange)[:5]} as other "
                f"features, {part.coder_.task_column!r} as the task column"
            )


@dataclass(kw_only=True, eq=False, repr=False)
class MultiTaskEnsemble(MultiTaskEstimator):
    """Ensemble that chooses models for each task, and learns tasks together where that helps.

    Folds let several candidates answer rows that they have not seen. Each task takes the mean of their probabilities
    and values, by weights that suit the likelihood of its labels there. With few labels, about half of the weight goes
    to candidates that learn the task alone, and half to those that learn tasks together; many labels choose. Where the
    mixture is behind the best candidate that learns the task alone by more than one paired standard error, that
    candidate answers. Learning together pays most for a task with few labels beside tasks with many.

    ``models="fast"`` tries models of single tasks of all families (`IndependentTasks`) and `SharedTrees`: take it
    first. ``models="best"`` adds `RMTGB`, and a `SharedBottom` network with 4 members, no restarts and a patience of 3,
    at several times the cost. Wide tables add linear models, ridge and logistic regressions of each task on the answers
    of `IndependentTasks` to the other tasks.

    Parameters
    ----------
    models : {"fast", "best"} or dict of str to estimator, default="best"
        Multi-task estimators by name, or those of `default_models`. The ensemble fits copies: models of single tasks
        first, then the others in this order. It sets their ``tasks``, ``task_column``, ``columns`` and
        ``random_state``. The ``columns`` of a candidate may ignore some more: a sequence then has levels of its own if
        its item is left out, and lists beside a sequence are left out with it. If there is no `IndependentTasks`, the
        ensemble adds one as the reference.
    n_folds : int or "auto", default="auto"
        Number of folds; every candidate is fitted on each, but for `IndependentTasks` with models of its own, which is
        fitted once and answers rows unseen by these folds. "auto" is 5, or 3 with more than 200 000 rows if no task has
        fewer than 500 labels. There are never more folds than groups. With "auto" and a wide table, `IndependentTasks`
        halves the folds for tasks with fewer than 600 labels, so that it learns from more of them.
    refit : bool, default=False
        Fit every chosen candidate once more, on all rows. This gives faster answers, a slower fit, and models that the
        weights were not chosen for. By default, the mean of the models of the folds answers new rows. Given X_val and
        y_val, these rows are learned too, after they have chosen the weights.
    time_limit : float, optional
        Seconds to try candidates in. The first candidate is always fitted. Another one is left out, with a warning, if
        less than half of the mean time of those before it is left, or if its first folds foretell that it ends too
        late. Every fit gets the remaining time as its own limit, or the limit of its candidate if that is less. The
        choice therefore depends on the machine. Without ``time``, the trees of a `SharedTrees` of all folds grow at
        once; in one process, the networks of all folds train as one. Both end at the limit. Fits of ``refit=True`` come
        on top.

        With ``n_processes``, a fit that hangs in a process of its own is ended at twice its limit, at the earliest one
        minute after it, and its candidate is left out. Nothing ends a fit that hangs in the main process.
    n_jobs : int, optional
        Threads of every candidate; None keeps the ``n_jobs`` of each.
    n_processes : int, optional
        Number of processes that fit the folds of a candidate, or the candidates of ``refit=True``, at the same time.
        None is 1, and -1 is all cores. `IndependentTasks` and `SharedTrees`, which fit all folds at once, stay in the
        main process.
    verbose : int, default=0
        1 shows the fits, and then the mean scores of the candidates and of the mixture.

    Attributes
    ----------
    leaderboard_ : polars.DataFrame
        One row per candidate and task. ``score`` is the out-of-fold score by the task's metric, higher is better, and
        ``standard_error`` its error; both are null where undefined. ``weight`` is the weight in the mixture.
        ``is_judged`` is false if the task has too few labels to judge by, so that its scores chose nothing. ``seconds``
        is the time of all fits of the candidate. ``left_out`` says why a candidate has no score, the error of a fit or
        the time limit; otherwise it is null. The last rows are those of the mixture, of which each third of the rows
        is answered by weights that the others choose.
    model_weights_ : polars.DataFrame
        One row per task, and one column per candidate with a weight.
    estimators_ : dict of str to tuple of estimators
        The fitted models of each candidate with a weight, and of the candidate that the linear models read: one model
        per fold, or a single one if it is fitted once, or with ``refit=True``.
    stack_ : LinearStack or None
        Linear models, if a task uses them.
    stretch_ : Stretch
        A factor per task, by which answers lie farther from the best constant than those of the mixture.

    Notes
    -----
    The weights w of the candidates have the least n L(w) + 5 KL(w || p). L is the mean log loss of n labels, half the
    logarithm of the mean loss of numbers, or the logarithm where losses are absolute, as those of quantiles. KL is the
    divergence from the weights p without any label: half is shared by the candidates that learn the task alone, half by
    the others. Of numbers, no label counts as more than a tenth of all losses, or as two of fewer than 20 labels. Rows
    of a group count as one, and n is less where few rows have most of the weight or the losses. This is ours; greedy
    selection with replacement [1]_, which we took before, chooses by chance where labels are few. Weights below .01
    are 0.

    A mean of models varies less than what it predicts: its log odds, log probabilities or values are stretched away
    from those of the best constant, by the factor of the highest likelihood of the labels, pulled to 1.15.

    ROC AUC is taken over pairs of rows of the same fold, because the models of a fold that has more rows of a class
    answer lower for this class. With groups, standard errors are those over draws of groups.

    Folds hold labels of every task and class, and groups stay together. No row chooses for the models that answer it:
    those of `IndependentTasks` and the rounds of `SharedTrees` are chosen by judged rows of other folds, and other
    candidates stop early on rows inside the rows that they are fitted on. A task with fewer than 5 labels of a second
    class, or 10 of a regression, takes the weights that suit the other tasks, without the guard and with a warning.

    Where a column of categories has at least 8 levels, candidates that learn tasks together read the means of all
    targets by level as further columns, by other folds than that of the row; see ``families`` of `IndependentTasks`.
    Rows with times, a given X_val, and candidates with a ``fit`` of their own have none.

    Given ``time``, rows are cut in one block more than there are folds, by default six. Every candidate is fitted on
    the first block and answers the second, then on two and answers the third, and so on, and these answers choose the
    weights. The chosen candidates are then fitted on all rows, as with ``refit=True``. Linear models are left out. Rows
    whose group has older rows judge nothing.

    Given X_val and y_val, every candidate is fitted once, on all of X, and these rows take the place of the folds: they
    choose the weights, with the same guard. No model learns from them or stops by them but with ``refit=True``;
    candidates that stop early set rows of X aside. Labels that are not learned are lost, and few ones choose weights
    badly: give all rows as X where nothing demands X_val. Linear models are left out, because they need out-of-fold
    answers to X. ``n_folds`` is ignored.

    A candidate is left out, with a warning, if its fit raises an error, or if its answers have another shape or are not
    finite values or probabilities. The fit fails if no single-task candidate is left, if memory runs out, or if a
    parameter of a candidate is bad.

    References
    ----------
    .. [1] Caruana, Niculescu-Mizil, Crew, Ksikes (2004), "Ensemble Selection from Libraries of Models", ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from tabmtl import IndependentTasks, MultiTaskEnsemble, SharedTrees
    >>> X = np.random.default_rng(0).normal(size=(300, 3))
    >>> y = np.column_stack([X[:, 0], X[:, 0] + X[:, 1]])
    >>> y[250:, 1] = np.nan  # unlabelled
    >>> candidates = {"alone": IndependentTasks(families=("lightgbm",)), "together": SharedTrees(n_estimators=50)}
    >>> model = MultiTaskEnsemble(models=candidates, n_folds=3, random_state=0).fit(X, y)
    >>> model.leaderboard_.columns
    ['model', 'task', 'score', 'standard_error', 'weight', 'is_judged', 'seconds', 'left_out']
    """

    models: Annotated[Literal["fast", "best"] | Mapping[str, MultiTaskEstimator], check_models] = "best"
    n_folds: Annotated[int | Literal["auto"], partial(check_count_or_auto, low=2)] = "auto"
    refit: bool = False
    n_jobs: Jobs = None
    n_processes: Jobs = None

    __learns_all_rows__: ClassVar[bool] = True

    _stored: ClassVar[type] = EnsembleState
    estimators_ = FromFitted("estimators")
    stack_ = FromFitted("stack")
    stretch_ = FromFitted("stretch")
    model_weights_ = FromFitted("weights")
    _levels = FromFitted("levels")

    partial_fit = cast(
        Any,
        NotHere(
            "its weights are those of folds over all rows; fit again on old and new rows, or distill(model, X), which "
            "gives one network that goes on"
        ),
    )
    export_task = NotHere("it is made of many models; say distill(model, X), which gives one network to export")
    add_task = cast(Any, NotHere("fit again with the new target in y, or distill(model, X), whose network takes tasks"))
    remove_task = cast(Any, NotHere("say predict(X, tasks=...), or distill(model, X), whose network parts with tasks"))

    @staticmethod
    def default_models(size: Literal["fast", "best"] = "best") -> dict[str, MultiTaskEstimator]:
        """Return the candidates that a name of ``models`` stands for, unfitted, in the order in which they are tried.

        Parameters
        ----------
        size : {"fast", "best"}, default="best"

        Examples
        --------
        >>> from tabmtl import MultiTabNet, MultiTaskEnsemble
        >>> ensemble = MultiTaskEnsemble(models={**MultiTaskEnsemble.default_models(), "MultiTabNet": MultiTabNet()})
        """
        return named_set(size)

    def _fit(self, coder: TableCoder, rows: FitRows, valid: FitRows | None, seed: int) -> dict[str, Any]:
        if rows.frame is None:
            raise TypeError(
                f"{type(self).__name__} cannot be fitted on Shards, because its models read frames; give it a "
                "frame, or fit a network or SharedTrees"
            )
        table = Table.read(rows.frame, coder, rows.read())
        if valid is None:
            if table.batch.time is None:
                warn_of_random_split(rows.dates, len(rows))
            folds = Folds.deal(table, coder, self.n_folds, seed)
        else:
            folds = Folds.given(table, Table.read(valid.frame, coder, valid.read()))
        tried = {name: self._prepared(each, coder) for name, each in candidates(self.models).items()}
        n_fits = [count_fits(each, folds) for each in tried.values()]
        refits = self.refit or folds.go_forward
        n_refits = n_fits.count(len(folds.pairs)) if refits else 0
        with self._watch.without_limit().steps(sum(n_fits) + n_refits, "fit") as on_fit:
            trials = Trials(tried, folds, seed, self._watch, count_threads(self.n_processes), on_fit)
            fitted = _mix(coder, trials, trials.run(), refits)
        fitted["answered"] = partial(self._answers_of_fit, table, coder, fitted["answered"])
        of_candidates = fitted["leaderboard_"].group_by("model", maintain_order=True)
        for name, score, reason in of_candidates.agg(pl.mean("score"), pl.first("left_out")).rows():
            said = "no task could be scored" if score is None else f"mean out-of-fold score {score:.4f}"
            self._watch.tell(f"{name}  {said if reason is None else f'left out: {reason}'}")
        return fitted

    def _prepared(self, candidate: MultiTaskEstimator, coder: TableCoder) -> MultiTaskEstimator:
        """Return a copy of a candidate that knows the tasks, the columns, and its threads."""
        dropped = [name for name in ignored(candidate.columns) if name not in coder.dropped]
        copy = clone(candidate).set_params(
            tasks={task.name: task for task in coder.labels.column_tasks},
            task_column=coder.task_column,
            columns=leave_out(coder.features.declared, dropped),
        )
        return copy if self.n_jobs is None or not hasattr(copy, "n_jobs") else copy.set_params(n_jobs=self.n_jobs)

    def _set_fitted(self, coder: TableCoder, found: Mapping[str, Any], **kept: Any) -> None:
        super()._set_fitted(coder, found, **kept)
        # the user's own may be changed in place later
        self._fitted_params["models"] = clone(self.models, safe=False)

    def _answers_of_fit(
        self, table: Table, coder: TableCoder, unseen: Callable[[], Answers], model: Model
    ) -> list[Answers]:
        """Return the answers to some rows of fit, and those of folds to rows that they have not learned."""
        some = table.rows(draw(len(table), sample_size(coder.features.columns)))
        return [Answers(model.answer(some.batch, self, some.X), some.batch.task, are_learned=True), unseen()]

    def _fitted_of(self, coder: TableCoder, parts: dict[str, Any]) -> FittedMixture:
        return FittedMixture(coder=coder.after, **parts)


class MultiTaskEnsembleClassifier(ClassifierFace, MultiTaskEnsemble):
    """`MultiTaskEnsemble` whose every task is a classification."""


class MultiTaskEnsembleRegressor(RegressorFace, MultiTaskEnsemble):
    """`MultiTaskEnsemble` whose every task is a regression."""


def _mix(coder: TableCoder, trials: Trials, found: Mapping[str, Trial], refits: bool) -> dict[str, Any]:
    """Choose the weights of the candidates, and return the fitted attributes."""
    folds, reference = trials.folds, next(iter(found))
    begin = perf_counter()
    stack = _fit_stack(coder, folds, found[reference])
    linear = {} if stack is None else {LINEAR: _stacked(stack, coder, folds, found[reference], begin)}
    tried = {**found, **linear}
    judged = _judged(coder, folds, tried, sum(isinstance(trials.candidates[name], IndependentTasks) for name in found))
    choices = choose_weights(judged, trials.seed, folds.cure)
    weights = np.stack([choice.weights for choice in choices], axis=1)
    mixed = [each.mix(own) for each, own in zip(judged, weights.T, strict=True)]
    labels = [(each.y, each.loss_weight, own) for each, own in zip(judged, mixed, strict=True)]
    stretch = Stretch.fit(coder.labels.tasks, labels)
    shares = {name: own for name, own in zip(tried, weights, strict=True) if own.any()}
    if LINEAR not in shares:
        stack = None
    kept = [name for name in found if name in shares or (stack is not None and name == reference)]
    models = {name: tuple(found[name].parts) for name in kept}
    if refits:
        whole = {name: found[name].parts[0] for name in kept if trials.learns_at_once(name)}
        refitted = whole | trials.refit([name for name in kept if name not in whole])
        if len(refitted) < len(kept):  # the others are weighed anew
            return _mix(coder, trials, {name: found[name] for name in found if name not in trials.left_out}, refits)
        models = {name: (refitted[name],) for name in kept}
    if stack is not None:  # the last one is of all rows
        stack = stack.only(range(len(folds.pairs)) if len(models[reference]) > 1 else [len(folds.pairs)])
    model_weights = pl.DataFrame({"task": [task.name for task in coder.labels.tasks]} | shares)
    fitted = FittedMixture(
        coder=coder,
        estimators=models,
        weights=model_weights,
        stretch=stretch,
        stack=stack,
        levels=None if folds.levels is None else folds.levels.columns.means,
    )
    return {
        "_fitted": fitted,
        "answered": partial(_unseen, coder, folds, tried, fitted),
        "leaderboard_": _leaderboard(tried, judged, choices, stretch, trials.left_out),
    }


def _unseen(coder: TableCoder, folds: Folds, tried: Mapping[str, Trial], fitted: FittedMixture) -> Answers:
    """Return the answers of the mixture to some of the rows that judged its candidates."""
    judged = folds.judged.batch
    rows = draw(len(judged), sample_size(coder.features.columns))
    task = None if judged.task is None else judged.task[rows]
    several = ((name, [answer[rows] for answer in trial.answers]) for name, trial in tried.items())
    return Answers(fitted.mixed(coder.labels.tasks, several, task), task)


def _fit_stack(coder: TableCoder, folds: Folds, reference: Trial) -> LinearStack | None:
    """Fit linear models on the answers of a candidate, for every fold and of all rows.

    Return None where there are no other tasks, or no answers.
    """
    has_answers = folds.judge_fits and len(folds.pairs) > 1 and not folds.go_forward
    if coder.task_column is not None or len(coder.labels.tasks) < 2 or not has_answers:
        return None
    batch, parts = folds.table.batch, [*(fitted for fitted, _ in folds.pairs), np.arange(len(folds.table))]
    return LinearStack.fit(coder.labels, reference.answers, batch.y, batch.weight, folds.pairs, parts)


def _stacked(stack: LinearStack, coder: TableCoder, folds: Folds, reference: Trial, begin: float) -> Trial:
    """Return the out-of-fold answers of the linear models as those of a candidate, whose fits began at some time."""
    answers = [np.full_like(answer, np.nan) for answer in reference.answers]
    for k, (_, rows) in enumerate(folds.pairs):
        found = stack.answer(coder.labels, k, [answer[rows] for answer in reference.answers])
        for answer, part in zip(answers, found, strict=True):
            answer[rows] = part
    return Trial([], answers, perf_counter() - begin)


def _judged(coder: TableCoder, folds: Folds, found: Mapping[str, Trial], n_single: int) -> list[Judged]:
    """Return the labels of every task that candidates have answered, with all answers."""
    batch, judged = folds.judged.batch, []
    # models of single tasks with few labels have answered by the fine folds
    fold = None if len(folds.pairs) < 2 else folds.numbers if folds.fine is None else folds.fine
    weight = batch.score_weight
    for t, (task, rows) in enumerate(zip(coder.labels.tasks, _judged_rows(folds, found), strict=True)):
        column = t if batch.task is None else 0
        judged.append(
            Judged(
                task=task,
                y=batch.y[rows, column],
                weight=None if weight is None else weight[rows, column],
                answers=np.stack([trial.answers[column][rows] for trial in found.values()]),
                n_single=n_single,
                fold=None if fold is None else fold[rows],
                group=None if batch.group is None else batch.group[rows],
                of_class=None if batch.of_class is None else batch.of_class[rows, column],
            )
        )
    return judged


def _judged_rows(folds: Folds, found: Mapping[str, Trial]) -> list[np.ndarray]:
    """Return the numbers of the rows of every task that have a label, a weight and answers."""
    batch, by_column = folds.judged.batch, []
    for column, answer in enumerate(next(iter(found.values())).answers):
        counts = ~np.isnan(batch.y[:, column]) & ~np.isnan(answer).reshape(len(batch), -1).any(axis=1)
        by_column.append(np.flatnonzero(counts if batch.weight is None else counts & (batch.weight[:, column] > 0)))
    if batch.task is None:
        return by_column
    (rows,) = by_column
    rows = rows[np.argsort(batch.task[rows], kind="stable")]
    return np.split(rows, np.searchsorted(batch.task[rows], np.arange(1, len(folds.table.tasks))))


def _leaderboard(
    tried: Mapping[str, Trial],
    judged: Sequence[Judged],
    choices: Sequence[Choice],
    stretch: Stretch,
    left_out: Mapping[str, str],
) -> pl.DataFrame:
    """Return the scores of all candidates and of the mixture, and why some candidates have none."""
    each_seconds = [trial.seconds for trial in tried.values()]
    lines = [own for choice in choices for own in choice.lines([*tried], each_seconds)]
    order = {name: place for place, name in enumerate(tried)}
    lines.sort(key=lambda own: order[own[0]])
    for name, reason in left_out.items():
        lines += [(name, each.task.name, None, None, 0.0, each.has_enough, None, reason) for each in judged]
    tasks = [each.task for each in judged]
    for t, choice in enumerate(choices):
        lines.append(choice.line(MIXTURE, stretch.answer(tasks, t, choice.mixed), sum(each_seconds)))
    return leaderboard(lines)

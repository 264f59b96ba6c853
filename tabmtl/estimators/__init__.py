"""What a model inherits, and what other rooms may ask of one.

All other rooms, and the benchmarks, read no attribute of an estimator or a recommender that begins with one underscore.
They ask these, which each document themselves; ``make lint`` checks it. Names between double underscores are for rooms,
and not for users, as scikit-learn's ``__sklearn_tags__`` is.

===================  ===============================================================================================
of                   what may be asked
===================  ===============================================================================================
every model          `tabmtl.base.params.check_params` raises an error for a bad parameter, by ``__check_params__``;
                     `tabmtl.estimators.base.unfitted` is a copy with the parameters of ``fit``
estimators           ``__learner__()`` does what ``fit`` does before it trains: ``check(X, X_val, y_val)`` raises its
                     errors of parameters, ``coder(X, y)`` and ``labels(y)`` learn columns and tasks;
                     ``__learns_all_rows__`` tells whether validation rows would be lost to it;
                     `tabmtl.estimators.encoded` fits and asks several by rows that are encoded once
fitted estimators    ``coder_`` knows tasks, and the columns of X that the user gives, ``coder_.after`` those that a
                     preprocessor makes of them; ``__answers__(X, tasks)`` gives probabilities and values as arrays,
                     and ``__labelled_answers__(X, y)`` those with the labels, as scores take them;
                     `tabmtl.estimators.model.model_of` is the `Model` below
networks             `tabmtl.estimators.together` fits several as one
fitted networks      ``model_``, the `Model` below, and ``fitted_network()``
fitted recommenders  ``columns_``, ``item_ids_``
files                ``__saved__()``, ``__from_saved__(saved)``, ``__training_code__`` and ``__gone_params__`` are for
                     `tabmtl.base.storage` and `tabmtl.base.params`
===================  ===============================================================================================

All that was fitted is one frozen `tabmtl.estimators.model.Model`, of which these are views. What a fitted model learns
later of new rows is kept in ``coder_.labels.decisions``; see `tabmtl.targets.decisions`.
"""

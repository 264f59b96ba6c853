"""What a model inherits, and what other rooms may ask of one.

All other rooms, and the benchmarks, read no attribute of an estimator or a recommender that begins with an underscore.
They ask these, which each document themselves; ``make lint`` checks it.

===================  ===============================================================================================
of                   what may be asked
===================  ===============================================================================================
every model          ``check_params(name)`` raises an error for a bad parameter; `tabmtl.estimators.base.unfitted`
                     is a copy with the parameters of ``fit``
estimators           ``learner()`` does what ``fit`` does before it trains: ``check(X, X_val, y_val)`` raises its
                     errors of parameters, ``coder(X, y)`` and ``labels(y)`` learn columns and tasks;
                     ``learns_all_rows`` tells whether validation rows would be lost to it;
                     `tabmtl.estimators.encoded` fits and asks several by rows that are encoded once
fitted estimators    ``coder_`` knows tasks, and the columns of X that the user gives, ``coder_.after`` those that a
                     preprocessor makes of them; ``answer(X, tasks)`` gives probabilities and values as arrays, and
                     ``answer_labelled(X, y)`` those with the labels, as scores take them
networks             `tabmtl.estimators.together` fits several as one
fitted networks      ``model_``, the `Model` below, and ``fitted_network()``
fitted recommenders  ``columns_``, ``item_ids_``
files                ``saved()``, ``from_saved(saved)`` and ``training_code`` are for `tabmtl.base.storage` and
                     `tabmtl.base.params`
===================  ===============================================================================================

All that was fitted is one frozen `tabmtl.estimators.model.Model`, of which these are views. What a fitted model learns
later of new rows is kept in ``coder_.labels.decisions``; see `tabmtl.targets.decisions`.
"""

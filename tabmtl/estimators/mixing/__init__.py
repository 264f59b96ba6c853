"""How answers of several models become one: levels as means of all targets, folds, weights, a guard and a table."""

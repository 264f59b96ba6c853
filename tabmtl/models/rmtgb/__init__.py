"""R-MTGB: robust multi-task gradient boosting."""

from tabmtl.models.rmtgb.estimator import RMTGB, RMTGBClassifier, RMTGBRegressor

__all__ = ["RMTGB", "RMTGBClassifier", "RMTGBRegressor"]

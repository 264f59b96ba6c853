"""R-MTGB: robust multi-task gradient boosting, on LightGBM's trees."""

from tabmtl.models.rmtgb.estimator import RMTGB, RMTGBClassifier, RMTGBRegressor

__all__ = ["RMTGB", "RMTGBClassifier", "RMTGBRegressor"]

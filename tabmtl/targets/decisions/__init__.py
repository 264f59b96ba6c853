"""What a fitted model learns of rows that its fit has not seen: how sure its answers are, and where it decides.

All of it is one `Decisions`, a field of `tabmtl.encode.LabelCoder`, in which item t belongs to task t: files, the
metadata of ONNX files, MLflow and `predict_files` carry it with the coder, and a new fit, which learns a new coder,
clears it. A model goes through it in this order:

1. ``Model.answer`` is what the method computes. Folds of an ensemble, distillation and early stopping see these.
2. ``answer`` puts them behind the calibrators (`LabelCoder.decided`), and is all that users, scores and files see.
3. ``decode`` chooses classes at the thresholds of a task (`Task.decide`); intervals are made of answers too.

The methods `calibrate`, `tune_thresholds` and `conformalize` of an estimator are a few lines over functions of this
room, which take arrays: labels and answers of the rows of one task. Each method makes a whole `Decisions`, and then a
new model, so that a call that fails leaves the model as it was. What rests on answers, as thresholds and
intervals do, ends where these change: a new calibration of a task drops both.
"""

from tabmtl.targets.decisions.calibrators import Calibrator
from tabmtl.targets.decisions.learned import Decisions

__all__ = ["Calibrator", "Decisions"]

"""Generators of synthetic tables whose truth is known."""

from tabmtl.synth.funnel import Funnel, make_funnel
from tabmtl.synth.funnel_truth import FunnelTruth
from tabmtl.synth.histories import Histories, make_histories
from tabmtl.synth.multitab_bench import MultitabBench, make_multitab_bench
from tabmtl.synth.multitab_truth import MultitabTruth
from tabmtl.synth.outlier_tasks import OutlierTasks, make_outlier_tasks
from tabmtl.synth.session_truth import SessionTruth
from tabmtl.synth.sessions import SessionLog, make_sessions

__all__ = [
    "Funnel",
    "FunnelTruth",
    "Histories",
    "MultitabBench",
    "MultitabTruth",
    "OutlierTasks",
    "SessionLog",
    "SessionTruth",
    "make_funnel",
    "make_histories",
    "make_multitab_bench",
    "make_outlier_tasks",
    "make_sessions",
]

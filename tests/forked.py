"""Scripts that fork: each runs in a process of its own, whose threads the forked ones lack."""

import json
import os
import subprocess
import sys
from pathlib import Path

START = """
import json, os, pickle, signal, tempfile, threading, warnings
import numpy as np, torch
import tabmtl
from tabmtl import IndependentTasks, RMTGB, SharedBottom

def in_a_fork(case):
    reader, writer = os.pipe()
    if not os.fork():
        signal.alarm(30)  # which ends it, and it says nothing
        try:
            said = repr(case())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        return answer.read()

warnings.simplefilter("ignore")
torch.set_num_threads(2)
torch.ones(600, 600) @ torch.ones(600, 600)
numbers = np.random.default_rng(0).normal(size=(50, 3))
"""


def run(script: str, **variables: str) -> dict[str, str]:
    """What the forked processes of a script said, which has some variables of the environment."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command, environment = [sys.executable, "-c", START + script], os.environ | {"PYTHONPATH": path} | variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout)

"""CPU time: threads, children that run and children that have ended."""

import subprocess
import sys
import time

from tabmtl.base.cpu import cpu_seconds

BURN = """
import subprocess, sys, time
def burn():
    while time.process_time() < 0.3: pass
if len(sys.argv) > 1:
    burn()
    print(flush=True)
    sys.stdin.read()
else:
    child = subprocess.Popen([sys.executable, "-S", __file__, "x"], stdout=subprocess.PIPE)
    child.stdout.readline()
    burn()
    print(flush=True)
    child.wait()
"""


def test_children_count_while_they_run_and_when_they_have_ended(tmp_path):
    (tmp_path / "a (b) burn.py").write_text(BURN)
    before, own = cpu_seconds(), time.process_time()
    command = [sys.executable, "-S", tmp_path / "a (b) burn.py"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        running = cpu_seconds() - before
        child.stdin.close()
        child.wait()
    ended = cpu_seconds() - before
    own = time.process_time() - own
    assert 0.55 < running <= ended < 1.5 + own

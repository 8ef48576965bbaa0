"""Ctrl-C, outside of a training, and the second one."""

import gc
import signal
import subprocess
import sys
import time

import pytest

from mrl_jax.training import preemption


def test_a_second_signal_ends_at_once():
  program = """
import signal
from mrl_jax.training.preemption import Preemption
with Preemption() as preemption:
  signal.raise_signal(signal.SIGINT)
  assert preemption.noticed(1)
  print('noticed', flush=True)
  signal.raise_signal(signal.SIGINT)
  print('too late', flush=True)
"""
  ended = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True
  )
  assert ended.returncode == -signal.SIGINT
  assert ended.stdout == 'noticed\n'
  assert 'Ctrl-C once more ends at once' in ended.stderr


def test_an_ignored_ctrl_c_stays_ignored():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with preemption.Preemption() as noticed:
      signal.raise_signal(signal.SIGINT)
      assert not noticed.noticed(1)
  finally:
    signal.signal(signal.SIGINT, before)


def test_an_evaluation_stops_between_batches():
  with preemption.Preemption() as noticed:
    batches = noticed.until(range(3))
    assert next(batches) == 0
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(preemption.Stopped):
      next(batches)
    with pytest.raises(KeyboardInterrupt):
      noticed.end_if_noticed()


def test_a_lost_interrupt_is_raised_again():
  def callback(phase, info):
    gc.callbacks.remove(callback)
    signal.raise_signal(signal.SIGINT)

  def work():
    gc.collect()  # Python prints what is raised in there, and goes on.
    time.sleep(10)

  gc.callbacks.append(callback)
  with preemption.interrupts_heard(), pytest.raises(KeyboardInterrupt):
    work()

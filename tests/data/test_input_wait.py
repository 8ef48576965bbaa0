import pytest

from mrl_jax.data.batches import input_wait


@pytest.fixture
def clock(monkeypatch):
  class Clock:
    now = 0.0

    def perf_counter(self):
      return self.now

  clock = Clock()
  monkeypatch.setattr(input_wait, 'time', clock)
  return clock


def batches(clock, seconds):
  while True:
    clock.now += seconds
    yield 'batch'


def train(batches, clock, steps, seconds):
  for _ in range(steps):
    assert next(batches) == 'batch'
    clock.now += seconds


def test_shares_are_of_the_interval_and_the_epoch(clock):
  batches_in = input_wait.InputWait(batches(clock, 1.0))
  train(batches_in, clock, 4, 3.0)
  assert batches_in.share() == pytest.approx(0.25)
  train(batches_in, clock, 2, 0.0)
  assert batches_in.share() == pytest.approx(1.0)
  # 6 of 18 seconds; and once is enough.
  assert 'waits for images 33% of its time' in batches_in.report()
  train(batches_in, clock, 2, 0.0)
  assert not batches_in.report()


def test_other_work_does_not_count(clock):
  batches_in = input_wait.InputWait(batches(clock, 1.0))
  train(batches_in, clock, 1, 100.0)  # Compilation.
  batches_in.restart()
  train(batches_in, clock, 4, 5.0)
  assert not batches_in.report()  # A sixth.
  clock.now += 100  # Evaluation.
  batches_in.restart()
  train(batches_in, clock, 1, 1.0)
  assert batches_in.share() == pytest.approx(5 / 26)


def test_the_end_is_passed_on(clock):
  batches_in = input_wait.InputWait(iter('a'))
  assert list(batches_in) == ['a']
  assert batches_in.share() == 0.0

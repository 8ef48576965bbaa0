import io
import sys

from mrl_jax import terminal
from mrl_jax.terminal import tables


def progress(dims=(2, 4)):
  return terminal.Progress(
    start_step=0,
    total_steps=5,
    steps_per_epoch=5,
    batch_size=10,
    nesting_dims=dims,
    log_every_steps=2,
  )


def test_table():
  content = tables.Table(('width', 'x'), [(8, 1.0), (16, None)])
  assert terminal.table(content) == 'width     x\n    8  1.00\n   16     –'


def test_progress_in_plain_lines(capsys):
  with progress() as shown:
    rates = [shown.update(step, (0.5, 0.25)) for step in range(1, 6)]
  assert [rate is not None for rate in rates] == [0, 1, 0, 1, 1]
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 3
  assert lines[0].startswith('step 2/5  00:00 left  epoch 0.40  ')
  assert lines[0].endswith(' images/s  loss @2 0.500 @4 0.250')


def test_progress_on_a_terminal(monkeypatch):
  screen = io.StringIO()
  screen.isatty = lambda: True
  monkeypatch.setattr(sys, 'stderr', screen)
  with progress() as shown:
    for step in range(1, 6):
      shown.update(step, (0.5, 0.25))
    shown.say('epoch 1')
  assert '5/5' in screen.getvalue()
  assert 'loss @2 0.500 @4 0.250' in screen.getvalue()
  assert 'epoch 1\n' in screen.getvalue()
  with progress((1, 2, 4, 8)) as shown:
    shown.update(2, (0.5, 0.25, 0.125, 1))
  assert 'loss @1 0.500 @4 0.125 @8 1.000' in screen.getvalue()

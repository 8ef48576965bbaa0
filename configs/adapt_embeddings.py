"""Makes vectors of any encoder nested, without the encoder itself.

Trains MRL heads and a small residual transform of the vectors (`adaptor`) on
vectors and labels alone, at the widths 8, 16, … up to that of the vectors. The
stages after it measure, export and search the transformed vectors. The paper
has no such experiment. 100,000 vectors of width 2048 take about a minute on two
CPU cores; the accuracy depends on the vectors (python -m benchmarks.adaptor
measures it on synthetic ones).

From the `embeddings/` of an earlier run's workdir, or a folder of `train-x.npy`
(floats [N, D]), `train-y.npy` (integers [N]), `val-x.npy` and `val-y.npy`:

    python launch.py --config=configs/adapt_embeddings.py \\
      --config.embeddings=DIR [--config.eval_split=test] --workdir=runs/nested

From one file each, of which a tenth of the rows is held out:

    python launch.py --config=configs/adapt_embeddings.py \\
      --config.embeddings=X.npy --config.labels=Y.npy --workdir=runs/nested
"""

from configs import default


def get_config():
  config = default.get_config()
  config.name = 'adapt_embeddings'
  config.dataset = ''
  config.eval_split = 'val'
  config.encoder = 'adaptor'
  config.dtype = 'float32'
  config.nesting_dims = ()
  config.batch_size = 256
  config.num_epochs = 10
  config.learning_rate = 0.03
  config.schedule = 'cosine'
  config.peak_epoch = 1.0
  config.decay_mask = 'no_norm_no_bias'
  config.label_smoothing = 0.0
  config.eval_every_epochs = 10
  config.checkpoint_every_epochs = 5
  config.eval_batch_size = 4096
  return config

"""Measures a PyTorch model, imported without a config, on your own images.

    python -m mrl_jax.models.torch_import FILE --out=runs/mine
    python launch.py --config=configs/imported.py:runs/mine \\
      --workdir=runs/mine --config.dataset=folder:/path

Nothing trains. After the colon comes the workdir that the import wrote; the
encoder, the widths and the preparation of the images are as it recorded them.
The images are embedded, and 1-NN and retrieval are measured between the two
splits. To measure the neighbours within one split, each image without itself,
give `--mode=evaluate --config.train_split=val --config.eval_split=val`.
"""

import json
import pathlib

from configs import default


def get_config(workdir: str = ''):
  config = default.get_config()
  config.name = 'imported'
  config.dataset = 'folder:'
  config.eval_split = 'val'
  config.modes = ('embed', 'evaluate', 'retrieve')
  config.eval_batch_size = 64
  if workdir:
    path = pathlib.Path(workdir).expanduser() / 'config.json'
    recorded = json.loads(path.read_text())
    for name, value in recorded.items():
      if name not in ('name', 'dataset', 'eval_split', 'modes'):
        config[name] = tuple(value) if isinstance(value, list) else value
  return config

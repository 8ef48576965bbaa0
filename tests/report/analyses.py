"""Files as the stages leave them, with numbers made up."""

import json
import pathlib

import numpy as np
from PIL import Image

from configs import digits_mrl
from mrl_jax import stages
from mrl_jax.workdir import files
from mrl_jax.workdir.metrics_log import MetricWriter

DIMS = (2, 4, 8, 16, 32, 64)
BASELINES = ('nested', 'PCA', 'SVD', 'random dims', 'random projection')


def make_run(path: pathlib.Path):
  """A config and a workdir with made-up results of every stage."""
  config = digits_mrl.get_config()
  workdir = stages.open_workdir(config, path)
  with MetricWriter(workdir.metrics) as writer:
    for step in (1, 2, 3):
      writer.write(step, {f'train/loss@{dim}': 3.0 / step for dim in DIMS})
      writer.write(step, {f'val/top1@{dim}': 60.0 + step for dim in DIMS})
    writer.write(
      3,
      {f'val/top1@{dim}': 60 + dim / 4 for dim in DIMS}
      | {f'val/knn1@{dim}': 50 + dim / 4 for dim in (*DIMS, 3)},
    )
  methods = {
    name: {
      'dims': [int(dim) for dim in name.split('-')],
      'metrics': {'top1': 90.0, 'map10': 70.0 + i, 'p10': 80.0},
      'mflops_per_query': 0.01 * 2**i,
      'seconds': 0.01,
    }
    for i, name in enumerate(('4', '4-64', '4-8-64', '64'))
  }
  record = {'queries': 7, 'database': 30, 'step': 3, 'methods': methods}
  files.write_json(workdir.retrieval / 'retrieval.json', record)
  write(workdir.path / 'analysis', DIMS)
  return config, workdir


def write(folder: pathlib.Path, dims: tuple[int, ...], *, seed=0) -> None:
  """All of them, into `folder`; ten classes."""
  rng = np.random.default_rng(seed)
  folder.mkdir(parents=True, exist_ok=True)
  for name, value in {**tables(dims, rng), **seen(folder, dims, rng)}.items():
    (folder / f'{name}.json').write_text(json.dumps(value))


def tables(dims, rng) -> dict:
  G = len(dims)
  rising = [60 + 35 * (g + 1) / G for g in range(G)]
  spread = lambda mean: {'mean': list(mean), 'std': [0.5] * G}
  share = np.eye(G) + (1 - np.eye(G)) * 0.7
  bins = np.linspace(5, 95, 10)
  counts = rng.integers(0, 3, (G, 10))
  by_group = [[value, None, 50.0] for value in rising]
  return {
    'cascade': {'dims': dims, 'thresholds': [0.5] * (G - 1)},
    'cascade_curve': {
      'dims': dims,
      'accuracy': spread(rising),
      'expected_dim': spread(dims[0] + 0.3 * np.array(dims)),
      'cumulated_dim': spread(dims[0] + 0.5 * np.array(dims)),
      'thresholds': {'mean': [0.5] * (G - 1), 'std': [0.1] * (G - 1)},
      'repeats': 3,
      'fit_share': 0.2,
      'single': rising,
    },
    'oracle': {
      'dims': dims,
      'count': [60] + [5] * (G - 1),
      'never': 10,
      'examples': 70 + 5 * (G - 1),
      'accuracy': 88.9,
      'expected_dim': 5.25,
      'majority': 80.0,
      'agreement': share.tolist(),
      'trends': {'better': 8, 'mixed': 2},
      'trend_of_class': ['better'] * 8 + ['mixed'] * 2,
    },
    'calibration': {
      'dims': dims,
      'ece': rising[::-1],
      'bins': {
        'confidence': [bins.tolist()] * G,
        'accuracy': [
          [
            value if n else None
            for value, n in zip(bins * 0.9, row, strict=True)
          ]
          for row in counts.tolist()
        ],
        'count': counts.tolist(),
      },
    },
    'superclass': {
      'dims': dims,
      'groups': ['reject', 'round', 'straight'],
      'accuracy': rising,
      'by_group': by_group,
      'inside': [[5.0, None, 7.0]] * G,
      'across': [[3.0, None, 2.0]] * G,
      'within': by_group,
    },
    'per_class': {
      'dims': dims,
      'classes': [f'class {i}' for i in range(3)],
      'accuracy': [[value, None, 50.0] for value in rising],
    },
    'few_shot': {
      'dims': dims,
      'settings': [
        {'shots': shots, 'ways': 10, 'accuracy': rising, 'std': [1.0] * G}
        for shots in (1, 5)
      ],
    },
    'structure': {
      'dims': dims,
      'explained_variance': [(g + 1) / G for g in range(G)],
      'overlap': share.tolist(),
      'k': 10,
    },
    'baselines': {
      'dims': dims,
      'queries': 70,
      'database': 264,
      'sampled': True,
      'knn1': dict.fromkeys(
        ('nested', 'PCA', 'SVD', 'random dims', 'random projection'), rising
      ),
    },
  }


def seen(folder, dims, rng, *, examples=30, side=16) -> dict:
  """The projection and the saliency, whose images go into the folder."""
  G = len(dims)
  labels = [i % 10 for i in range(examples)]
  names = {str(i): f'<class {i}>' for i in range(10)}
  prediction = [[g % 3 and x for x in labels] for g in range(G)]
  cloud = lambda k: rng.normal(size=(G, examples, k)).round(3).tolist()
  pixels = rng.integers(0, 256, (side * 5, side * 6, 3)).astype(np.uint8)
  Image.fromarray(pixels).save(folder / 'projection.jpg')
  image_NHWC = rng.integers(0, 256, (2, 20, 20, 3)).astype(np.uint8)
  np.savez(
    folder / 'saliency.npz',
    image=image_NHWC,
    heat=rng.random((G, 2, 3, 3)),
    rollout=rng.random((2, 4, 4)),
  )
  return {
    'projection': {
      'dims': dims,
      'num_classes': 10,
      'rows': list(range(examples)),
      'labels': labels,
      'names': names,
      'prediction': prediction,
      'probability': [[0.5] * examples] * G,
      'thumbnail': {
        'file': 'projection.jpg', 'side': side, 'columns': 6, 'rows': 5
      },
      'pca2': cloud(2),
      'pca3': cloud(3),
      'tsne': cloud(2),
    },
    'saliency': {
      'dims': dims,
      'method': 'Grad-CAM',
      'arrays': 'saliency.npz',
      'labels': [1, None],
      'titles': ['<class 1>', 'mine.jpg'],
      'names': names,
      'prediction': [[1, 2]] * G,
      'probability': [[0.75, 0.5]] * G,
    },
  }  # fmt: skip

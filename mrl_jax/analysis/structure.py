"""Relations between the embedding spaces of different widths."""

from collections.abc import Sequence

import numpy as np

from mrl_jax import checks
from mrl_jax import nesting
from mrl_jax import values
from mrl_jax.retrieval import prefixes

# Rows worked on at a time.
_BLOCK = 4096


@checks.takes(embedding_ND=checks.numbers('ND'), dims=checks.wholes())
def explained_variance(
  embedding_ND: np.ndarray, dims: Sequence[int]
) -> np.ndarray:
  """The share of the embedding's variance in each prefix, [G]."""
  variance_D = _variance(_check(embedding_ND, dims))
  if not variance_D.sum():
    raise ValueError('all embeddings are the same: no variance to explain')
  total_D = variance_D.cumsum()
  return total_D[np.array(dims) - 1] / total_D[-1]


def _variance(embedding_ND) -> np.ndarray:
  """The variance of each dim, in float64, block by block."""
  mean_1D = embedding_ND.mean(0, dtype=np.float64, keepdims=True)
  starts = range(0, len(embedding_ND), _BLOCK)
  blocks = (embedding_ND[start : start + _BLOCK] for start in starts)
  sums = (np.square(block_ND - mean_1D).sum(0) for block_ND in blocks)
  return sum(sums) / len(embedding_ND)


@checks.takes(
  embedding_ND=checks.numbers('ND'),
  dims=checks.wholes(),
  components=checks.whole(),
)
def project(
  embedding_ND: np.ndarray, dims: Sequence[int], *, components: int = 2
) -> list[np.ndarray]:
  """Projects each prefix by PCA to [N, components], aligned to the one before.

  A prefix narrower than `components` is padded with zeros. Raises ValueError
  for widths that do not fit or fewer than two examples.
  """
  embedding_ND = _check(embedding_ND, dims)
  points = []
  for dim in dims:
    found = _pca(embedding_ND[:, :dim], components)
    points.append(align(found, points[-1]) if points else found)
  return points


@checks.takes(
  embedding_ND=checks.numbers('ND'),
  dims=checks.wholes(),
  seed=checks.whole(0, 2**32 - 1),
)
def neighbor_maps(
  embedding_ND: np.ndarray, dims: Sequence[int], *, seed: int
) -> list[np.ndarray]:
  """Maps each prefix by t-SNE to [N, 2], aligned to the one before.

  Distances are cosines. A map starts from the one before it, the first from
  PCA. The perplexity is 30, or a third of the examples where that is less (van
  der Maaten & Hinton, 2008). Raises ValueError for widths that do not fit, or
  fewer than four examples.
  """
  from sklearn.manifold import TSNE
  import threadpoolctl

  embedding_ND = _check(embedding_ND, dims)
  N = len(embedding_ND)
  if N < 4:
    raise ValueError(f'{N} embeddings: t-SNE needs at least 4')
  points = []
  for dim in dims:
    prefix_Nd = prefixes.unit(embedding_ND, dim)
    start_N2 = points[-1] if points else _pca(prefix_Nd, 2)
    # t-SNE begins with small values; scikit-learn scales its own starts so.
    start_N2 = 1e-4 * start_N2 / max(start_N2[:, 0].std(), 1e-12)
    tsne = TSNE(
      perplexity=min(30.0, (N - 1) / 3),
      init=start_N2.astype(np.float32),
      random_state=seed,
    )
    # Several threads would wait for each other in each of 1,000 steps, for
    # minutes where the cores are busy, and would round differently each time.
    with threadpoolctl.threadpool_limits(1):
      # For unit rows Euclidean distance ranks as the cosine does.
      found_N2 = tsne.fit_transform(prefix_Nd)
    points.append(align(found_N2, points[-1]) if points else found_N2)
  return points


@checks.takes(points_NK=checks.numbers('NK'), target_NK=checks.numbers('NK'))
def align(points_NK: np.ndarray, target_NK: np.ndarray) -> np.ndarray:
  """Centres points, and rotates or mirrors them to lie nearest to the target.

  This is orthogonal Procrustes: distances between the points do not change.
  """
  from scipy import linalg

  if points_NK.shape != target_NK.shape:
    raise ValueError(
      f'points of shape {points_NK.shape}, target of shape {target_NK.shape}: '
      'must be the same'
    )
  for name, array in (('points_NK', points_NK), ('target_NK', target_NK)):
    checks.all_finite(name, array)
  points_NK = points_NK - points_NK.mean(0, keepdims=True)
  target_NK = target_NK - target_NK.mean(0, keepdims=True)
  rotation_KK, _ = linalg.orthogonal_procrustes(points_NK, target_NK)
  return points_NK @ rotation_KK


@checks.takes(ids_GNK=checks.integers('GNK'))
def neighborhood_overlap(ids_GNK: np.ndarray) -> np.ndarray:
  """The mean Jaccard index of the nearest neighbours at two widths, [G, G].

  `ids_GNK`: K distinct rows of a database for each width and example.
  """
  G, _, K = ids_GNK.shape
  sorted_GNK = np.sort(ids_GNK, axis=-1)
  if (sorted_GNK[..., 1:] == sorted_GNK[..., :-1]).any():
    raise ValueError(
      f'ids_GNK, {values.shown(ids_GNK)}: the neighbours of an example must be '
      'distinct'
    )
  overlap_GG = np.ones((G, G))
  for g in range(G):
    for h in range(g):
      both_NKK = ids_GNK[g][:, :, None] == ids_GNK[h][:, None, :]
      shared_N = both_NKK.sum((1, 2))
      overlap_GG[g, h] = overlap_GG[h, g] = (
        shared_N / (2 * K - shared_N)
      ).mean()
  return overlap_GG


def _check(embedding_ND, dims) -> np.ndarray:
  embedding_ND = np.asarray(embedding_ND, np.float32)
  checks.all_finite('embedding_ND', embedding_ND)
  if len(embedding_ND) < 2:
    raise ValueError(f'{len(embedding_ND)} embeddings: must be at least 2')
  nesting.validate(tuple(dims), embedding_ND.shape[1])
  return embedding_ND


def _pca(x_ND, components) -> np.ndarray:
  from sklearn.decomposition import PCA

  kept = min(components, *x_ND.shape)
  # Embeddings that are all the same have no variance to take shares of.
  with np.errstate(invalid='ignore'):
    points_NK = PCA(kept, random_state=0).fit_transform(x_ND)
  return np.pad(points_NK, ((0, 0), (0, components - kept)))

"""What images and texts in one nested space are good for, at every width.

Zero-shot classification (arXiv 2103.00020, section 3.1), retrieval of texts by
images and of images by texts, and how similar pairs are.
"""

from collections.abc import Sequence

import numpy as np

from mrl_jax import retrieval

RANKS = (1, 5, 10)


def prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
  """The text of each class by each template, class by class.

  A template has `{}` where the name belongs. Raises ValueError for one without.
  """
  for template in templates:
    if template.count('{}') != 1:
      raise ValueError(f'template {template!r}: must have {{}} once')
  if not templates or not class_names:
    raise ValueError(
      f'{len(class_names)} classes and {len(templates)} templates: must be one '
      'of each at least'
    )
  return [x.replace('{}', name) for name in class_names for x in templates]


def class_vectors(text_CTD: np.ndarray, dim: int) -> np.ndarray:
  """A unit vector [C, dim] for each class of the prefixes of its T prompts.

  It is the mean of the unit prefixes, scaled to length 1 again.
  """
  mean_CD = unit(np.asarray(text_CTD)[..., :dim]).mean(1)
  return unit(mean_CD)


def zero_shot(
  image_ND: np.ndarray,
  text_CTD: np.ndarray,
  label_N: np.ndarray,
  dims: Sequence[int],
) -> dict[int, float]:
  """Top-1 accuracy in percent at each width.

  `text_CTD` are embeddings of the prompts of the classes, see `prompts`.
  """
  found = {}
  for dim in dims:
    class_CD = class_vectors(text_CTD, dim)
    predicted_N = (image_ND[:, :dim] @ class_CD.T).argmax(1)
    found[dim] = 100 * float(np.mean(predicted_N == label_N))
  return found


def recalls(
  query_QD: np.ndarray,
  key_MD: np.ndarray,
  query_number_Q: np.ndarray,
  key_number_M: np.ndarray,
  dims: Sequence[int],
  ranks: Sequence[int] = RANKS,
) -> dict[int, dict[int, float]]:
  """Recall in percent at each width and rank.

  It is the share of queries that have a key of their own number, that of the
  picture, among the nearest `k` by the cosine of prefixes. Ranks beyond the
  number of keys are left out. To search texts by images and images by texts,
  call it twice.
  """
  ranks = [k for k in ranks if k <= len(key_MD)]
  database, found = retrieval.prepare(key_MD), {}
  for dim in dims:
    ids_QK = retrieval.search(query_QD, database, max(ranks), dim=dim).ids_QK
    hits_QK = key_number_M[np.asarray(ids_QK)] == query_number_Q[:, None]
    found[dim] = {k: 100 * float(hits_QK[:, :k].any(1).mean()) for k in ranks}
  return found


def similarity(
  image_ND: np.ndarray, text_ND: np.ndarray, dims: Sequence[int]
) -> dict[int, tuple[float, float]]:
  """Mean cosine of pairs, and of images with other images' texts, by width.

  The article gives the former for ALIGN (arXiv 2205.13147, appendix).
  """
  N, found = len(image_ND), {}
  for dim in dims:
    image, text = (unit(x[:, :dim]) for x in (image_ND, text_ND))
    pairs = float((image * text).sum(1).mean())
    # The sum over all pairs is that of the sums.
    every = float(image.sum(0) @ text.sum(0))
    others = (every - N * pairs) / (N * (N - 1)) if N > 1 else 0.0
    found[dim] = pairs, others
  return found


def unit(x: np.ndarray) -> np.ndarray:
  """Scales the last axis to length 1; zeros stay zeros."""
  norm = np.linalg.norm(x, axis=-1, keepdims=True)
  return x / np.where(norm > 0, norm, 1)

"""What the page shows of a set of pairs: searches by words, and a map."""

import base64
from collections.abc import Sequence
import io
from typing import Any

import numpy as np
from PIL import Image

from mrl_jax import retrieval
from mrl_jax.analysis import pairs as analysis
from mrl_jax.analysis import structure
from mrl_jax.data.batches import evaluation
from mrl_jax.data.batches.damage import DamageLog
from mrl_jax.data.pairs.datasets import PairSet
from mrl_jax.stages.pairs.measure import Embedded
from mrl_jax.stages.pairs.trained import Embedder

# Captions that are searched for if an entry has no words, and pictures found.
_SEARCHES = 12
_FOUND = 5
# Pairs on the map: more make it no clearer.
_PLACES = 150
# Largest side of a thumbnail in pixels.
_LARGEST = 64


def searches(
  pair_set: PairSet,
  embedded: Embedded,
  embedder: Embedder,
  dims: Sequence[int],
  *,
  resize: int,
  size: int,
) -> dict[str, Any]:
  """What words find among the pictures at each width.

  The words are those of the set's entry, or else evenly chosen captions.

  Returns:
    `searches`, by width: for each of the words the numbers of the pictures
    found, nearest first, and their cosines; `pictures`, by number: the first
    caption, and a thumbnail of the picture as it is evaluated (`resize` and
    `size` are those of `evaluation.view`), a JPEG in base64.
  """
  words = pair_set.entry.words
  if words:
    word_QD = embedder.texts(words)
  else:
    chosen = _even(len(embedded.texts), _SEARCHES)
    words = tuple(embedded.texts[i] for i in chosen)
    word_QD = embedded.text_MD[chosen]
  database = retrieval.prepare(embedded.image_ND)
  k, found, wanted = min(_FOUND, len(embedded.image_ND)), {}, set()
  for dim in dims:
    ids_QK, scores_QK = retrieval.search(word_QD, database, k, dim=dim)
    number_QK = embedded.number_N[np.asarray(ids_QK)]
    wanted |= {*number_QK.ravel().tolist()}
    found[str(dim)] = [
      {'words': text, 'found': numbers, 'cosines': cosines}
      for text, numbers, cosines in zip(
        words,
        number_QK.tolist(),
        np.asarray(scores_QK, float).round(3).tolist(),
        strict=True,
      )
    ]
  source, pictures = pair_set.source, {}
  for number in sorted(wanted):
    seen = evaluation.view(
      source, number, resize=resize, size=size, damage=DamageLog(0)
    )
    pictures[str(number)] = {
      'caption': source.captions[number][0],
      'jpeg': _thumbnail(seen[0]),
    }
  return {'searches': found, 'pictures': pictures}


def places(embedded: Embedded, dims: Sequence[int]) -> dict[str, Any]:
  """Pictures and their captions in one plane at each width.

  The plane is that of the PCA of both together, as unit vectors, turned to lie
  as near the one before as it can.

  Returns:
    `names`, the captions, and by width the places of pictures, `images`, and of
    the captions, `texts`, in this order; none of fewer than two pairs.
  """
  rows = _even(len(embedded.number_N), _PLACES)
  if len(rows) < 2:
    return {'names': [], 'images': {}, 'texts': {}}
  captions = embedded.first_N[rows]
  both = np.concatenate([embedded.image_ND[rows], embedded.text_MD[captions]])
  found: dict[str, Any] = {'images': {}, 'texts': {}}
  before = None
  for dim in dims:
    (point_NK,) = structure.project(analysis.unit(both[:, :dim]), (dim,))
    if before is not None:
      point_NK = structure.align(point_NK, before)
    before = point_NK
    images, texts = np.split(point_NK.astype(float).round(3), 2)
    found['images'][str(dim)] = images.tolist()
    found['texts'][str(dim)] = texts.tolist()
  return {'names': [embedded.texts[i] for i in captions], **found}


def _even(count: int, most: int) -> np.ndarray:
  """Up to `most` numbers below `count`, evenly chosen."""
  return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def _thumbnail(image_HWC: np.ndarray) -> str:
  buffer, image = io.BytesIO(), Image.fromarray(image_HWC)
  image.thumbnail((_LARGEST, _LARGEST))
  image.save(buffer, 'JPEG', quality=85, subsampling=0)
  return base64.b64encode(buffer.getvalue()).decode()

"""Embeds and classifies with an export, without a checkpoint or model code."""

from collections.abc import Iterator, Sequence
import functools
import os
import pathlib
from typing import Any

import jax
import numpy as np

from mrl_jax import forks
from mrl_jax.analysis import cascade as cascade_lib
from mrl_jax.analysis.cascade import Cascade
from mrl_jax.interop import classify as classify_lib
from mrl_jax.interop import export_folder
from mrl_jax.interop import inputs
from mrl_jax.interop.inputs import ImageLike
from mrl_jax.workdir import files


class Encoder:
  """An exported encoder.

  Attributes:
    width: width of the whole embedding.
    nesting_dims: the widths that it was trained for.
    config: content of the export's config.json, which has its accuracies.
    preprocess: content of its preprocess.json.
    is_checked: whether its files were compared with their checksums; False for
      an export from before there were any, which opens with a warning.
  """

  def __init__(self, path: str | os.PathLike):
    """Opens an export folder, or the export in a workdir.

    Every file that the export wrote, but for the model card, is compared with
    its checksum.

    Raises:
      ValueError: there is no export, or one of its files is missing, differs
        from what was written, or is for another platform.
    """
    self._folder = export_folder.find(path)
    self._sealed = export_folder.check(self._folder)
    self.is_checked = self._sealed.files is not None
    self.config = files.read_json(self._folder / export_folder.CONFIG)
    self.preprocess = files.read_json(self._folder / export_folder.PREPROCESS)
    self.nesting_dims = tuple(self.config['nesting_dims'])
    exported = export_folder.read_artifact(self._folder)
    self.width = exported.out_avals[0].shape[1]
    self._row_shape = exported.in_avals[0].shape[1:]
    self._call = jax.jit(exported.call)

  def encode(
    self,
    images: ImageLike | Sequence[ImageLike],
    dim: int | None = None,
    *,
    normalize: bool = True,
    batch_size: int = 64,
  ) -> np.ndarray:
    """The leading `dim` numbers of each embedding, float32 [N, dim].

    Images are prepared as in evaluation: turned as `view` says, converted to
    RGB, the shorter side resized, and the central square cut out. An export of
    the nested adaptor takes vectors instead, floats [N, D].

    Args:
      images: one or several images of any size: paths, bytes of an encoded
        image, PIL images or uint8 arrays [H, W, 3]; or uint8 [N, H, W, 3].
      dim: any width up to `width`; widths between the `nesting_dims` are nearly
        as good as these. None stands for the whole width.
      normalize: whether to scale each prefix to length 1; zeros stay zeros.
      batch_size: number of images that are embedded at once.

    Raises:
      ValueError: an array of another rank or dtype, an image that cannot be
        decoded, or a dim beyond the width.
    """
    dim = self.width if dim is None else dim
    if not 0 < dim <= self.width:
      raise ValueError(f'dim {dim}: must be in [1, {self.width}]')
    batches = self._batches(images, batch_size)
    parts = [self._embed(batch)[:, :dim] for batch in batches]
    embedding_Nd = np.concatenate([np.empty((0, dim), np.float32), *parts])
    if normalize:
      norm_N1 = np.linalg.norm(embedding_Nd, axis=1, keepdims=True)
      embedding_Nd = embedding_Nd / np.where(norm_N1 > 0, norm_N1, 1)
    return embedding_Nd

  def classify(
    self,
    images: ImageLike | Sequence[ImageLike],
    dim: int | None = None,
    *,
    top: int = 1,
    cascade: bool | str | os.PathLike | Cascade = False,
    batch_size: int = 64,
  ) -> classify_lib.Predictions:
    """The likeliest classes of each image, as in evaluation.

    Args:
      images: images as in `encode`.
      dim: the width whose classifier decides; MRL-E has one at every width.
        None stands for the last of `nesting_dims`.
      top: number of classes K for each image.
      cascade: lets the first width decide that is sure enough, by the rule in
        the export's cascade.json (True), in another file, or in a `Cascade`.
        Probabilities are then those at the rule's temperature.
      batch_size: number of images that are classified at once.

    Raises:
      ValueError: as in `encode`; a dim without a classifier, or together with a
        cascade; a top beyond the number of classes; an export without
        classifiers or cascade.
    """
    rule = self._rule(dim, cascade)
    for each in rule.dims:
      self._heads.check(each)
    if not 0 < top <= self._heads.num_classes:
      raise ValueError(f'top {top}: must be in [1, {self._heads.num_classes}]')
    found = [(np.empty((0, top), np.int64), np.empty((0, top), np.float32))]
    dims = [np.empty(0, np.int64)]
    for batch in self._batches(images, batch_size):
      embedding_ND = self._embed(batch)
      if self.config.get('eval_flip'):
        # The heads are linear: the mean of logits is that of the mean.
        embedding_ND = (embedding_ND + self._embed(batch[:, :, ::-1])) / 2
      logits_NC, dims_N = classify_lib.decide(self._heads, embedding_ND, rule)
      found.append(classify_lib.top(logits_NC, top, rule.temperature))
      dims.append(dims_N)
    classes_NK, probabilities_NK = map(np.concatenate, zip(*found, strict=True))
    names = classify_lib.named(classes_NK, self.config.get('class_names', ()))
    return classify_lib.Predictions(
      classes_NK, probabilities_NK, names, np.concatenate(dims)
    )

  def view(self, image: ImageLike) -> np.ndarray:
    """The pixels that the encoder takes of an image, see `inputs.view`."""
    return inputs.view(image, self.preprocess)

  @functools.cached_property
  def _heads(self) -> classify_lib.Heads:
    # Another export may have taken the folder's place since it was opened.
    self._sealed.check(export_folder.HEADS)
    shared = self.config['head'] == 'mrl_e'
    return classify_lib.read(self._folder / export_folder.HEADS, shared=shared)

  def _rule(self, dim, cascade) -> Cascade:
    """The cascade to follow; a single width is a cascade of one."""
    if cascade is False:
      return Cascade((self.nesting_dims[-1] if dim is None else dim,), ())
    if dim is not None:
      raise ValueError(f'dim {dim} and a cascade: give one of them')
    if isinstance(cascade, Cascade):
      return cascade
    path = self._folder / export_folder.CASCADE
    if cascade is not True:
      path = pathlib.Path(cascade).expanduser()
    if not path.is_file():
      raise ValueError(f'{path} is not there: --mode=analyze,export writes it')
    if cascade is True:
      self._sealed.check(export_folder.CASCADE)
    return cascade_lib.load(path)

  def _batches(self, images: Any, batch_size: int) -> Iterator[np.ndarray]:
    if batch_size < 1:
      raise ValueError(f'batch_size {batch_size}: must be at least 1')
    if len(self._row_shape) == 1:
      return inputs.vector_batches(images, batch_size, *self._row_shape)
    return inputs.image_batches(images, batch_size, self.view)

  def _embed(self, batch: np.ndarray) -> np.ndarray:
    forks.check()
    # Padding to a power of two keeps the number of compiled shapes small.
    count = len(batch)
    size = 1 << (count - 1).bit_length()
    batch = np.pad(batch, [(0, size - count), *[(0, 0)] * (batch.ndim - 1)])
    return np.asarray(self._call(batch))[:count]

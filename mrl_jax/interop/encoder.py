"""Embeddings and classes of an export: no checkpoint, no model code."""

from collections.abc import Iterator, Sequence
import concurrent.futures
import functools
import os
import pathlib
from typing import Any

import jax
from jax import export as jax_export
import numpy as np
from PIL import Image

from mrl_jax import cores
from mrl_jax import forks
from mrl_jax.analysis import cascade as cascade_lib
from mrl_jax.analysis.cascade import Cascade
from mrl_jax.data.batches import parallel
from mrl_jax.data.images import decode
from mrl_jax.interop import classify as classify_lib
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files

# The files of an export that an encoder reads.
ARTIFACT = 'encoder.stablehlo'
PREPROCESS = 'preprocess.json'
CONFIG = 'config.json'
CHECKSUMS = 'checksums.json'

# A file, an encoded image, an opened one, or pixels, uint8 [H, W, 3].
ImageLike = str | os.PathLike | bytes | Image.Image | np.ndarray


class Encoder:
  """An exported encoder.

  Attributes:
    width: of the whole embedding.
    nesting_dims: the widths it was trained for.
    config: what the export's config.json holds, accuracies among it.
    preprocess: what its preprocess.json holds.
    is_checked: whether the files were compared with their checksums. An export
      from before there were any is opened with a warning.
  """

  def __init__(self, path: str | os.PathLike):
    """Opens an export folder, or the one of a workdir.

    Every file is read once, to compare it with its checksum.

    Raises ValueError if there is no export, or if one of its files is missing,
    is not as it was written, or does not belong to it.
    """
    folder = files.local(path, 'export')
    if (folder / 'export').is_dir():
      folder = folder / 'export'
    if not (folder / ARTIFACT).is_file():
      raise ValueError(
        f'{folder} has no {ARTIFACT}: must be what --mode=export wrote, or a '
        'workdir with it'
      )
    self._folder = folder
    self._sealed = _read_checksums(folder)
    self.is_checked = self._sealed.files is not None
    self.config = files.read_json(folder / CONFIG)
    self.preprocess = files.read_json(folder / PREPROCESS)
    self.nesting_dims = tuple(self.config['nesting_dims'])
    try:
      exported = jax_export.deserialize((folder / ARTIFACT).read_bytes())
    # Flatbuffers and MLIR raise many types on damaged bytes.
    except Exception as error:
      line = ' '.join(str(error).split())[:200]
      raise ValueError(
        f'{folder / ARTIFACT} cannot be read ({type(error).__name__}: {line})'
      ) from error
    platform = jax.default_backend()
    names = {'gpu': ('cuda', 'rocm')}.get(platform, (platform,))
    if not {*names} & {*exported.platforms}:
      raise ValueError(
        f'{folder / ARTIFACT} is for {exported.platforms}, not for {platform}'
      )
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

    Images come as the evaluation prepares them: as RGB, the shorter side
    resized, and the central square; first turned as `view` says. An export of
    the nested adaptor takes vectors instead, floats [N, D].

    Args:
      images: one or several: paths, bytes of an encoded image, PIL images,
        uint8 arrays [H, W, 3], all of any size; or uint8 [N, H, W, 3].
      dim: any width up to `width`; those of `nesting_dims` were trained for,
        those between them are nearly as good. None: the whole width.
      normalize: to length 1, after slicing; a prefix of zeros stays so.
      batch_size: embedded at once.

    Raises:
      ValueError: an array of another rank or dtype, an image that cannot be
        decoded, or a dim beyond the width.
    """
    dim = self.width if dim is None else dim
    if not 0 < dim <= self.width:
      raise ValueError(f'dim {dim}: must be in [1, {self.width}]')
    if batch_size < 1:
      raise ValueError(f'batch_size {batch_size}: must be at least 1')
    embedding_Nd = np.empty((0, dim), np.float32)
    batches = self._batches(images, batch_size)
    parts = [self._embed(batch)[:, :dim] for batch in batches]
    embedding_Nd = np.concatenate([embedding_Nd, *parts])
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
    """The likeliest classes of each image, as the evaluation has them.

    Args:
      images: as in `encode`.
      dim: the width whose classifier decides; MRL-E has one at any width. None:
        the last of `nesting_dims`.
      top: classes of each image, K.
      cascade: let the first width decide that is sure enough, of those in the
        export's cascade.json (True), in another, or in a `Cascade`.
        Probabilities are then those of its temperature.
      batch_size: classified at once.

    Raises:
      ValueError: as `encode`; a dim without classifier, or with a cascade; a
        top beyond the classes; an export without classifiers or cascade.
    """
    rule = self._rule(dim, cascade)
    for each in rule.dims:
      self._heads.check(each)
    if not 0 < top <= self._heads.num_classes:
      raise ValueError(f'top {top}: must be in [1, {self._heads.num_classes}]')
    if batch_size < 1:
      raise ValueError(f'batch_size {batch_size}: must be at least 1')
    found = [(np.empty((0, top), np.int64), np.empty((0, top), np.float32))]
    dims = [np.empty(0, np.int64)]
    for batch in self._batches(images, batch_size):
      embedding_ND = self._embed(batch)
      if self.config.get('eval_flip'):
        # The heads are linear: their mean is that of the mean.
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
    """What the artifact takes of an image: uint8 [size, size, 3].

    Where `preprocess` says `as_seen`, it is turned as its EXIF orientation says
    (as by PIL's `ImageOps.exif_transpose`), transparent pixels lie over white.
    """
    as_seen = self.preprocess.get('as_seen', False)
    resize, size = self.preprocess['resize'], self.preprocess['size']
    if isinstance(image, str | os.PathLike):
      image = pathlib.Path(image).expanduser().read_bytes()
    if isinstance(image, bytes):
      return decode.view(image, resize=resize, size=size, as_seen=as_seen)
    if isinstance(image, np.ndarray):
      _check_pixels(image, ndim=3)
      image = Image.fromarray(image)
    elif not isinstance(image, Image.Image):
      raise ValueError(
        f'{type(image).__name__}: must be a path, bytes, a PIL image, or uint8 '
        '[H, W, 3]'
      )
    image = decode.convert(image, as_seen=as_seen)
    return decode.evaluation_view(image, resize=resize, size=size)

  @functools.cached_property
  def _heads(self) -> classify_lib.Heads:
    # Another export may have taken the folder's place since it was opened.
    self._sealed.check(classify_lib.HEADS)
    shared = self.config['head'] == 'mrl_e'
    return classify_lib.read(self._folder / classify_lib.HEADS, shared=shared)

  def _rule(self, dim, cascade) -> Cascade:
    """One width alone is a cascade, too."""
    if cascade is False:
      return Cascade((self.nesting_dims[-1] if dim is None else dim,), ())
    if dim is not None:
      raise ValueError(f'dim {dim} and a cascade: give one of them')
    if isinstance(cascade, Cascade):
      return cascade
    path = self._folder / classify_lib.CASCADE
    if cascade is not True:
      path = pathlib.Path(cascade).expanduser()
    if not path.is_file():
      raise ValueError(f'{path} is not there: --mode=analyze,export writes it')
    if cascade is True:
      self._sealed.check(classify_lib.CASCADE)
    return cascade_lib.load(path)

  def _batches(self, images: Any, batch_size: int) -> Iterator[np.ndarray]:
    if len(self._row_shape) == 1:
      yield from self._vector_batches(images, batch_size)
      return
    if isinstance(images, jax.Array):
      images = np.asarray(images)
    if isinstance(images, np.ndarray):
      _check_pixels(images, ndim=4 if images.ndim == 4 else 3)
      images = images if images.ndim == 4 else [images]
    elif not isinstance(images, list | tuple):
      images = [images]
    starts = range(0, len(images), batch_size)
    numbered = (
      [(i, images[i]) for i in range(len(images))[start : start + batch_size]]
      for start in starts
    )
    with concurrent.futures.ThreadPoolExecutor(cores.count()) as pool:
      for views in parallel.map_batches(pool, self._view_of, numbered):
        yield np.stack(views)

  def _view_of(self, numbered: tuple[int, ImageLike]) -> np.ndarray:
    number, image = numbered
    try:
      return self.view(image)
    except (decode.DamagedImageError, ValueError) as error:
      is_path = isinstance(image, str | os.PathLike)
      name = os.fspath(image) if is_path else f'image {number}'
      raise ValueError(f'{name}: {error}') from error

  def _vector_batches(self, rows: Any, batch_size: int) -> Iterator[np.ndarray]:
    row_ND = np.asanyarray(rows)
    if row_ND.shape[1:] != self._row_shape or row_ND.dtype.kind != 'f':
      raise ValueError(
        f'vectors of {row_ND.dtype} {[*row_ND.shape]}: must be floats '
        f'[N, {self._row_shape[0]}]'
      )
    for start in range(0, len(row_ND), batch_size):
      yield np.asarray(row_ND[start : start + batch_size], np.float32)

  def _embed(self, batch: np.ndarray) -> np.ndarray:
    forks.check()
    # To a power of two, so that few shapes are compiled.
    count = len(batch)
    size = 1 << (count - 1).bit_length()
    batch = np.pad(batch, [(0, size - count), *[(0, 0)] * (batch.ndim - 1)])
    return np.asarray(self._call(batch))[:count]


def _read_checksums(folder: pathlib.Path) -> checksums.Sealed:
  """Checks all files of an export."""
  path = folder / CHECKSUMS
  remedy = 'run --mode=export again, or copy the whole folder again'
  if path.is_file():
    sealed = checksums.read(path, remedy)
    sealed.check_folder()
    return sealed
  if 'checksums' in files.read_json(folder / CONFIG):
    raise ValueError(f'{path} is missing: {remedy}')
  return checksums.unchecked(folder, {}, remedy)


def _check_pixels(image: np.ndarray, *, ndim: int) -> None:
  right = image.ndim == ndim and image.shape[-1] == 3 and image.size
  if not right or image.dtype != np.uint8:
    shape = 'uint8 [H, W, 3]' + (' or [N, H, W, 3]' if ndim == 4 else '')
    raise ValueError(
      f'an array of {image.dtype} {[*image.shape]}: must be {shape}'
    )

"""Exported towers: images and texts to one space, and zero-shot classes."""

from collections.abc import Sequence
import os

import jax
import numpy as np

from mrl_jax import forks
from mrl_jax.analysis import pairs as analysis
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.interop import classify as classify_lib
from mrl_jax.interop import export_folder
from mrl_jax.interop.encoder import Encoder
from mrl_jax.interop.inputs import ImageLike
from mrl_jax.interop.text import inputs as text_inputs

# Texts that are embedded at once.
_AT_ONCE = 256


class TowersEncoder(Encoder):
  """Exported towers, as an `Encoder` of images that embeds texts, too.

  Attributes:
    tokens: turns texts into token ids.
    scale: the factor of the cosines at each width of `nesting_dims`.
  """

  def __init__(self, path: str | os.PathLike):
    """Opens the export of towers, as `Encoder` does."""
    super().__init__(path)
    config = self.config['towers']
    self.tokens = Tokens(
      self._folder / export_folder.TOKENIZER, config['max_tokens']
    )
    self.scale = dict(zip(self.nesting_dims, config['scale'], strict=True))
    exported = export_folder.read_artifact(
      self._folder, export_folder.TEXT_ARTIFACT
    )
    self._call_text = jax.jit(exported.call)
    # Embeddings of the prompts of classes, [C, T, D].
    self._prompts: dict[tuple, np.ndarray] = {}

  def encode_text(
    self,
    texts: str | bytes | Sequence[str | bytes],
    dim: int | None = None,
    *,
    normalize: bool = True,
  ) -> np.ndarray:
    """The leading `dim` numbers of each text's embedding, float32 [N, dim].

    Args:
      texts: one or several texts; those of more than `tokens.max_tokens` tokens
        are cut off there.
      dim: any width up to `width`; None stands for the whole width.
      normalize: whether to scale each prefix to length 1; zeros stay zeros.

    Raises:
      ValueError: what is no text, or a dim beyond the width.
    """
    forks.check()
    dim = self._checked(dim)
    ids = self.tokens.ids(text_inputs.checked(texts))
    parts = [np.empty((0, self.width), np.float32)]
    for start in range(0, len(ids), _AT_ONCE):
      rows = ids[start : start + _AT_ONCE]
      # A power of two keeps the number of compiled shapes small.
      empty = (1 << (len(rows) - 1).bit_length()) - len(rows)
      found = self._call_text(*self.tokens.pad([*rows, *[[]] * empty]))
      parts.append(np.asarray(found)[: len(rows)])
    embedding_Nd = np.concatenate(parts)[:, :dim]
    return analysis.unit(embedding_Nd) if normalize else embedding_Nd

  def zero_shot(
    self,
    images: ImageLike | Sequence[ImageLike],
    classes: Sequence[str],
    dim: int | None = None,
    *,
    templates: Sequence[str] = ('{}',),
    top: int = 1,
    batch_size: int = 64,
  ) -> classify_lib.Predictions:
    """The likeliest of the classes for each image.

    Args:
      images: images as in `encode`.
      classes: a name, or a text, for each class.
      dim: any width up to `width`; None stands for the whole width.
      templates: texts with `{}` where the name belongs. A class's vector is the
        mean of the unit vectors of its texts, scaled to length 1 again.
      top: number of classes K for each image.
      batch_size: number of images that are embedded at once.

    Returns:
      Classes with the softmax of the scaled cosines as probabilities.

    Raises:
      ValueError: as in `encode`; no class, a template without a place for the
        name, or a top beyond the number of classes.
    """
    dim = self._checked(dim)
    if isinstance(classes, str | bytes):
      raise ValueError(f'classes {classes!r}: must be a list of names')
    classes = text_inputs.checked(classes)
    prompts = analysis.prompts(classes, templates)
    if not 0 < top <= len(classes):
      raise ValueError(f'top {top}: must be in [1, {len(classes)}]')
    key = (tuple(classes), tuple(templates))
    if key not in self._prompts:
      text_MD = self.encode_text(prompts, normalize=False)
      self._prompts[key] = text_MD.reshape(len(classes), len(templates), -1)
    class_Cd = analysis.class_vectors(self._prompts[key], dim)
    image_Nd = self.encode(images, dim, batch_size=batch_size)
    wider = [m for m in self.nesting_dims if m >= dim]
    scale = self.scale[min(wider, default=max(self.nesting_dims))]
    logits_NC = scale * (image_Nd @ class_Cd.T)
    classes_NK, probabilities_NK = classify_lib.top(logits_NC, top, 1.0)
    return classify_lib.Predictions(
      classes_NK,
      probabilities_NK.astype(np.float32),
      classify_lib.named(classes_NK, classes),
      np.full(len(logits_NC), dim),
    )

  def _checked(self, dim: int | None) -> int:
    dim = self.width if dim is None else dim
    if not 0 < dim <= self.width:
      raise ValueError(f'dim {dim}: must be in [1, {self.width}]')
    return dim

"""Exports a trained encoder for servers, and for use without JAX."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import jax
from jax import export as jax_export
from ml_collections import ConfigDict
import numpy as np

from mrl_jax import terminal
from mrl_jax.interop import export_folder
from mrl_jax.interop import model_card
from mrl_jax.interop.pytorch import arrays as torch_arrays
from mrl_jax.stages import export_records
from mrl_jax.stages import inputs
from mrl_jax.stages import recorded
from mrl_jax.stages import trained as trained_lib
from mrl_jax.stages.trained import Trained
from mrl_jax.training import inference
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  names = [
    export_folder.ARTIFACT,
    export_folder.PREPROCESS,
    export_folder.CONFIG,
    export_folder.HEADS,
    export_folder.CARD,
    export_folder.CHECKSUMS,
  ]
  if not config.embeddings:
    names.append(export_folder.TENSORS)
  if (workdir.analysis / 'cascade.json').exists():
    names.append(export_folder.CASCADE)
  return [workdir.export / name for name in names]


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes export/, whole or not at all.

  - `encoder.stablehlo`: the encoder by `jax.export`, from uint8 pixels (or
    vectors) to float32 embeddings, for any batch size.
  - `preprocess.json`: its input.
  - `config.json`, `README.md`: what it is, with the accuracy at every width.
  - `heads.npz`: the classifiers.
  - `cascade.json`: the thresholds of the widths, if analyze has fitted them on
    this checkpoint.
  - `model.safetensors`: encoder and heads under timm's names, which `init_from`
    reads; not for vectors.
  - `checksums.json`: the checksums of all these files, which are checked when
    an export is opened.
  """
  class_names = recorded.class_names(config, workdir)
  trained = trained_lib.restore(config, workdir, checkpoint, len(class_names))
  if jax.process_index():
    return
  about = export_records.about(config, workdir, trained, class_names)
  preprocess = export_records.preprocess(config)
  with files.replacing_folder(workdir.export) as folder:
    artifact = _artifact(config, trained, preprocess)
    (folder / export_folder.ARTIFACT).write_bytes(artifact)
    files.write_json(folder / export_folder.PREPROCESS, preprocess)
    files.write_json(folder / export_folder.CONFIG, about)
    _write_heads(folder / export_folder.HEADS, trained)
    rule = _rule(workdir, checkpoint)
    if rule:
      files.write_json(folder / export_folder.CASCADE, rule)
    if not config.embeddings:
      _write_tensors(folder / export_folder.TENSORS, trained, about)
    (folder / export_folder.CARD).write_text(
      model_card.text(about, preprocess, has_rule=bool(rule)),
      encoding='utf-8',
    )
    checksums.write(
      folder / export_folder.CHECKSUMS, {}, list(folder.iterdir())
    )
  terminal.say(
    f'export: step {trained.step}, {len(artifact) / 1e6:,.1f} MB for '
    f'{", ".join(export_folder.PLATFORMS)} in {workdir.export}'
  )


def _artifact(
  config: ConfigDict, trained: Trained, preprocess: Mapping[str, Any]
) -> bytes:
  """The encoder for all `PLATFORMS`, serialized."""
  embed_step = inference.make_embed_step(
    trained.graphdef, inputs.normalize(config)
  )
  # Arrays of the host become constants of the program.
  arrays = jax.device_get((trained.params, trained.batch_stats))
  shape = jax_export.symbolic_shape(', '.join(map(str, preprocess['shape'])))
  return export_folder.serialized(
    lambda image: embed_step(*arrays, {'image': image}),
    jax.ShapeDtypeStruct(shape, np.dtype(preprocess['dtype'])),
  )


def _write_heads(path: pathlib.Path, trained: Trained) -> None:
  head = trained.model.head
  widths = list(enumerate(head.nesting_dims))
  arrays = {}
  for g, dim in widths if head.kind == 'mrl' else widths[-1:]:
    kernel_mC, bias_C = head.weights(g)
    arrays |= {f'kernel_{dim}': kernel_mC, f'bias_{dim}': bias_C}
  np.savez(path, **jax.device_get(arrays))


def _rule(workdir: Workdir, checkpoint: Checkpoint) -> dict | None:
  """The cascade that analyze fitted on the checkpoint, or None."""
  path = workdir.analysis / 'cascade.json'
  if not path.exists():
    return None
  rule = checksums.read(path, 'delete it and run --mode=analyze,export').record
  if 'step' in rule and checkpoint.has_made(rule):
    return rule
  terminal.say(
    f'export: {path} is not of step {checkpoint.step} as it is now, left '
    'out: delete it and run --mode=analyze,export'
  )
  return None


def _write_tensors(
  path: pathlib.Path, trained: Trained, about: Mapping[str, Any]
) -> None:
  from safetensors import numpy as safetensors

  tensors = torch_arrays.to_torch(trained.model, 'timm')
  # All values must be text.
  metadata = {
    # transformers and timm look for this.
    'format': 'pt',
    'encoder': about['encoder'],
    'head': about['head'],
    'nesting_dims': ','.join(map(str, about['nesting_dims'])),
    'num_features': str(about['num_features']),
    'num_classes': str(about['num_classes']),
  }
  contiguous = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
  # safetensors itself would write a file that only its owner can read.
  path.write_bytes(_sorted(safetensors.save(contiguous, metadata)))


def _sorted(data: bytes) -> bytes:
  """Sorts a file's metadata, whose order safetensors changes each time."""
  start = 8 + int.from_bytes(data[:8], 'little')
  header = json.loads(data[8:start])
  header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  return len(text).to_bytes(8, 'little') + text + data[start:]

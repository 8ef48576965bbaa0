"""Exports trained towers: both encoders, their arrays and their tokenizer."""

import pathlib
import shutil
from typing import Any

import jax
from jax import export as jax_export
from jax import numpy as jnp
from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.pairs import datasets
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.interop import export_folder
from mrl_jax.interop import model_card
from mrl_jax.interop.towers import hand_over
from mrl_jax.models import towers as towers_lib
from mrl_jax.stages import export_records
from mrl_jax.stages import inputs as image_inputs
from mrl_jax.stages.pairs import inputs
from mrl_jax.stages.pairs import trained as trained_lib
from mrl_jax.training import inference
from mrl_jax.workdir import Checkpoint
from mrl_jax.workdir import checksums
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir

_FILES = (
  export_folder.ARTIFACT,
  export_folder.TEXT_ARTIFACT,
  export_folder.PREPROCESS,
  export_folder.CONFIG,
  export_folder.TOKENIZER,
  export_folder.TENSORS,
  export_folder.CARD,
  export_folder.CHECKSUMS,
)


def outputs(config: ConfigDict, workdir: Workdir) -> list[pathlib.Path]:
  return [workdir.export / name for name in _FILES]


def run(config: ConfigDict, workdir: Workdir, checkpoint: Checkpoint) -> None:
  """Writes export/, whole or not at all, which `mrl_jax.load` opens.

  - `encoder.stablehlo`, `text.stablehlo`: the towers by `jax.export`, from
    uint8 pixels, and from token ids, int32 [N, T], and a mask that is False on
    padding; both to float32 embeddings.
  - `preprocess.json`, `tokenizer.json`: how images and texts become that.
  - `config.json`, `model.safetensors`: what the towers are and their arrays,
    which transformers reads where they are a CLIP or SigLIP.
  - `README.md`: the model card, with the accuracies of each evaluation set.
  - `checksums.json`: the checksums of all these files.
  """
  tokens = inputs.open_tokens(config, workdir)
  trained = trained_lib.restore(config, workdir, checkpoint, tokens)
  if jax.process_index():
    return
  model = inference.evaluation_model(
    trained.graphdef, *jax.device_get((trained.params, trained.batch_stats))
  )
  preprocess, style = (
    export_records.preprocess(config),
    hand_over.style_of(model),
  )
  records = _records(config, workdir, trained.step)
  with files.replacing_folder(workdir.export) as folder:
    for name, data in _artifacts(config, model, preprocess).items():
      (folder / name).write_bytes(data)
    files.write_json(folder / export_folder.PREPROCESS, preprocess)
    about = hand_over.config_json(model, tokens)
    about |= _about(config, workdir, model, tokens, trained.step)
    # Recalls and accuracies in percent.
    about['values'] = {k: x for y in records for k, x in y['values'].items()}
    files.write_json(folder / export_folder.CONFIG, about)
    shutil.copyfile(tokens.path, folder / export_folder.TOKENIZER)
    _write_tensors(folder / export_folder.TENSORS, model)
    (folder / export_folder.CARD).write_text(
      model_card.towers_text(about, preprocess, records, style=style),
      encoding='utf-8',
    )
    checksums.write(
      folder / export_folder.CHECKSUMS, {}, list(folder.iterdir())
    )
  terminal.say(
    f'export: step {trained.step}, both towers '
    f'({style or "no layout of transformers"}) for '
    f'{", ".join(export_folder.PLATFORMS)} in {workdir.export}'
  )


def _artifacts(
  config: ConfigDict, model: towers_lib.Towers, preprocess: dict[str, Any]
) -> dict[str, bytes]:
  normalize = image_inputs.normalize(config)
  image = jax_export.symbolic_shape(', '.join(map(str, preprocess['shape'])))
  text = jax_export.symbolic_shape(
    'n, t', constraints=[f't <= {config.pairs.max_tokens}']
  )
  return {
    export_folder.ARTIFACT: export_folder.serialized(
      lambda image: model.encode_images(normalize(image)),
      jax.ShapeDtypeStruct(image, jnp.uint8),
    ),
    export_folder.TEXT_ARTIFACT: export_folder.serialized(
      model.encode_texts,
      jax.ShapeDtypeStruct(text, jnp.int32),
      jax.ShapeDtypeStruct(text, jnp.bool_),
    ),
  }


def _about(
  config: ConfigDict,
  workdir: Workdir,
  model: towers_lib.Towers,
  tokens: Tokens,
  step: int,
) -> dict[str, Any]:
  """What config.json says to us: the model and its training."""
  return {
    'name': config.name,
    'encoder': config.encoder,
    'width': model.embedding_dim,
    'nesting_dims': list(config.nesting_dims),
    'is_matryoshka': True,
    'matryoshka_dimensions': list(config.nesting_dims),
    'dataset': config.dataset,
    'normalized': False,
    'step': step,
    'config_hash': workdir.hash_of(),
    # An export without this file is refused as incomplete.
    'checksums': export_folder.CHECKSUMS,
    'towers': {
      'text': config.pairs.text,
      'objective': config.pairs.objective,
      'max_tokens': tokens.max_tokens,
      'scale': [float(x) for x in jnp.exp(model.log_scale[...])],
    },
  }


def _records(
  config: ConfigDict, workdir: Workdir, step: int
) -> list[dict[str, Any]]:
  """What evaluate wrote of the evaluation sets at this step."""
  found = []
  for text in config.eval_sets:
    path = workdir.evaluation / f'{datasets.parse(text).name}.json'
    if path.is_file():
      record = checksums.read(path, 'run --mode=evaluate').record
      found += [record] if record.get('step') == step else []
  return found


def _write_tensors(path: pathlib.Path, model: towers_lib.Towers) -> None:
  from safetensors import numpy as safetensors

  # transformers looks for the metadata.
  path.write_bytes(safetensors.save(hand_over.tensors(model), {'format': 'pt'}))

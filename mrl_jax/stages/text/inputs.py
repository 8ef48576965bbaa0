"""The texts that a config names: to train on, and to measure on."""

from ml_collections import ConfigDict

from mrl_jax import terminal
from mrl_jax.data.sources.provenance import Provenance
from mrl_jax.data.text import eval_sets
from mrl_jax.data.text import examples
from mrl_jax.data.text.eval_sets import TextSet
from mrl_jax.data.text.examples import Texts
from mrl_jax.data.text.tokens import Tokens
from mrl_jax.stages import set_results
from mrl_jax.stages.text import datasets
from mrl_jax.stages.text import pretrained
from mrl_jax.stages.text import tokenizer
from mrl_jax.workdir import files
from mrl_jax.workdir import Workdir


def open_training(config: ConfigDict) -> list[Texts]:
  """Opens the datasets to train on; prints a line on each."""
  opened = []
  for entry in datasets.entries(config):
    kind = datasets.KINDS[entry.objective]
    source = examples.open_texts(
      entry.path,
      kind,
      entry.columns,
      target=entry.target,
      score_range=entry.span,
      teacher=entry.teacher,
      prompts=tuple(config.text.prompts),
    )
    width, last = source.teacher_width, config.nesting_dims[-1]
    if kind == 'taught' and width < last and config.text.similarity_share < 1:
      raise ValueError(
        f'teacher {entry.teacher}: is of width {width}, and nesting_dims end '
        f'at {last}: text.similarity_share=1 compares similarities alone'
      )
    line = f'train: {len(source):,} {kind} of {entry.path}'
    if source.left_out:
      line += f'; {source.left_out:,} with an empty text are left out'
    terminal.say(line)
    opened.append(source)
  if len({source.class_names for source in opened}) > 1:
    raise ValueError(f'datasets {config.dataset}, …: must have the same labels')
  return opened


def open_tokens(config: ConfigDict, workdir: Workdir) -> Tokens:
  """Opens the workdir's tokenizer; ValueError if it has none."""
  return tokenizer.open_tokens(workdir, config.text.max_tokens)


def prepare_tokens(
  config: ConfigDict, workdir: Workdir, sources: list[Texts]
) -> Tokens:
  """Opens the workdir's tokenizer; a training that begins writes it before.

  It is a copy of `text.tokenizer`, or that of the folder or run in `init_from`,
  or is made of the texts to train on. The settings of a pretrained encoder are
  copied, too.
  """

  def find() -> str:
    if config.encoder == 'pretrained':
      pretrained.copy(config, workdir)
    return config.text.tokenizer or _started_from(config)

  return tokenizer.prepare(
    workdir,
    find,
    (text for source in sources for text in source.texts),
    max_tokens=config.text.max_tokens,
    vocabulary_size=config.text.vocabulary_size,
  )


def _started_from(config: ConfigDict) -> str:
  """The tokenizer of what `init_from` names; empty if there is none."""
  if not config.init_from:
    return ''
  found = tokenizer.beside(files.local(config.init_from, 'init_from'))
  if not found and config.encoder == 'pretrained':
    found = str(pretrained.tokenizer(pretrained.start(config)))
  return found


def say_truncated(tokens: Tokens, stage: str) -> None:
  """Prints a line if texts were cut."""
  if tokens.num_truncated:
    terminal.say(
      f'{stage}: {tokens.num_truncated:,} of {tokens.num_texts:,} texts are '
      f'cut to max_tokens={tokens.max_tokens}'
    )


def record(
  config: ConfigDict, sources: list[Texts], workdir: Workdir
) -> Provenance:
  """The record of the training data, saved with each checkpoint."""
  listing = {
    f'{number}/{name}' if number else name: value
    for number, source in enumerate(sources)
    for name, value in source.listing().items()
  }
  listing |= tokenizer.listing(workdir)
  first = sources[0]
  return Provenance(
    first.name, first.version, first.class_names, {'train': listing}, 'stream'
  )


def check_record(there: Provenance, here: Provenance, workdir: Workdir) -> None:
  """Raises ValueError if a training began with other texts."""
  was, now = there.splits.get('train', {}), here.splits['train']
  if was == now:
    return
  changed = [
    name for name in {**was, **now} if was.get(name) != now.get(name)
  ] or ['the order of the files']
  raise ValueError(
    f'the texts are not what the training in {workdir.path} began with: '
    f'{", ".join(changed)}. Bring that back, or train in another --workdir'
  )


def open_sets(config: ConfigDict) -> list[TextSet]:
  """Opens the sets to measure on; raises ValueError with each one's fault."""
  return set_results.open_all(
    config, lambda text: eval_sets.open_set(eval_sets.parse(text))
  )


def digest(config: ConfigDict) -> str:
  """A digest of the files of the evaluation sets."""
  return set_results.digest(
    config, lambda text: eval_sets.listing(eval_sets.parse(text))
  )

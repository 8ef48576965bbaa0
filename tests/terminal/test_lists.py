"""Lists on the command line: one rule, for every field that holds one."""

import argparse

from absl import flags
from ml_collections import config_flags
from ml_collections import ConfigDict
import pytest

from configs import default
import launch
from mrl_jax.stages import check
from mrl_jax.stages import fields
from mrl_jax.terminal import arguments

# ml_collections loads config files by it.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module')

# Values typed in several ways, and what they mean; one case or more for each
# field of default.py that holds a list.
FIELDS = {
  'modes': [
    (('train,embed', "'train','embed'", "('train','embed')"),
     ('train', 'embed')),
    (('train', "'train'", 'train,'), ('train',)),
  ],
  'crop_scale': [(('0.1,1', '(0.1, 1)'), (0.1, 1))],
  'mean': [(('0.5,0.5,0.5', '.5,.5,.5'), (0.5, 0.5, 0.5))],
  'std': [(('1,1,1', '[1,1,1]'), (1, 1, 1))],
  'nesting_dims': [
    (('8,16', '(8,16)', '8, 16', '8,16,'), (8, 16)), (('8',), (8,)),
    (('', '()'), ()),
  ],
  'nesting_weights': [
    (('8boost', "'8boost'"), ('8boost',)), (('2,1',), (2, 1)),
  ],
  'trainable': [
    (('layer4.2,head', "'layer4.2','head'", '"layer4.2",head'),
     ('layer4.2', 'head')),
    (('head',), ('head',)),
  ],
  'step_epochs': [(('30,60.5',), (30, 60.5)), (('30',), (30,))],
  'betas': [(('0.9,1e-1',), (0.9, 0.1))],
  'eval_dims': [(('12,24',), (12, 24)), (('()',), ())],
  'eval_sets': [
    (('imagenet_a,folder:/path', "'imagenet_a','folder:/path'"),
     ('imagenet_a', 'folder:/path')),
    (('folder:/a/b-c.d',), ('folder:/a/b-c.d',)),
    (("'folder:/a,b'", '"folder:/a,b"'), ('folder:/a,b',)),
    (('x@test[:50%],objectnet=folder:/o',),
     ('x@test[:50%]', 'objectnet=folder:/o')),
  ],
  'few_shot.shots': [(('1,5',), (1, 5)), (('1',), (1,))],
  'few_shot.ways': [(('10,0',), (10, 0))],
  'save': [
    (('logits,labels', "'logits','labels'"), ('logits', 'labels')),
    (('logits', '"logits"'), ('logits',)),
  ],
}  # fmt: skip
CASES = [
  (name, text, value)
  for name, meanings in FIELDS.items()
  for texts, value in meanings
  for text in texts
]


def parse(*args):
  """The config of a command line, by flags of its own."""
  argv = ['launch.py', '--config=configs/default.py', *args]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
  values(argv)
  return values.config


def list_fields(config, prefix=''):
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      yield from list_fields(value, f'{name}.')
    elif isinstance(value, tuple):
      yield prefix + name


def test_every_list_of_the_default_config_has_its_rule():
  names = set(list_fields(default.get_config()))
  assert names == FIELDS.keys() == fields.LISTS.keys()
  assert launch  # It has flags read by this rule.


@pytest.mark.parametrize('name, text, value', CASES)
def test_a_list_is_read_as_it_is_meant(name, text, value):
  config = parse(f'--config.{name}={text}')
  for part in name.split('.'):
    config = config[part]
  assert config == value


@pytest.mark.parametrize('text', ['8,,16', ',8', ','])
def test_an_empty_element_is_refused_by_the_name_of_the_field(text):
  with pytest.raises(flags.Error, match=r'config\.nesting_dims.*element'):
    parse(f'--config.nesting_dims={text}')


@pytest.mark.parametrize('name', FIELDS)
def test_an_element_of_another_type_is_refused_by_name(name):
  wrong = '7' if fields.LISTS[name] is str else "'x'"
  if name == 'nesting_weights':
    wrong = "'x','y'"
  config = parse(f'--config.{name}={wrong}')
  config.embeddings, config.encoder = '', 'resnet50'
  with pytest.raises(ValueError, match=name) as refused:
    check.check(config)
  assert wrong.strip("'")[0] in str(refused.value)


def test_lists_of_whole_numbers():
  assert arguments.wholes('8,16') == arguments.wholes('(8, 16)') == (8, 16)
  for text in ('', '8,x', '1.5', '8,,16'):
    with pytest.raises(argparse.ArgumentTypeError, match='must'):
      arguments.wholes(text)

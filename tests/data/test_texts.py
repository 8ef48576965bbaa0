"""Texts from files to batches."""

import gzip
import itertools
import json

import jax
import numpy as np
import pytest

from mrl_jax.data.text import columns
from mrl_jax.data.text import eval_sets
from mrl_jax.data.text import examples
from mrl_jax.data.text import rows
from mrl_jax.data.text import sentences
from mrl_jax.data.text import tokens as tokens_lib
from mrl_jax.data.text.batches import TextBatches
from mrl_jax.data.text.mix import Mix
from mrl_jax.training import sharding

ROWS = [('a dog', 'a hound', 'a cat'), ('the sea', 'the ocean', 'a "lake", é')]
NAMES = ('anchor', 'positive', 'negative')


def write_csv(path, rows=ROWS, names=NAMES, separator=','):
  cell = lambda x: f'"{x.replace(chr(34), chr(34) * 2)}"'
  if separator == '\t':
    cell = str
  lines = [separator.join(map(cell, row)) for row in rows]
  head = [separator.join(names)] if names else []
  path.write_text('\n'.join([*head, *lines]) + '\n', encoding='utf-8')


def write_jsonl(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def pairs(rows, **options):
  return examples.Texts('pairs', rows, **options)


@pytest.fixture(scope='module')
def tokens(tmp_path_factory):
  path = tmp_path_factory.mktemp('tokens') / 'tokenizer.json'
  texts = [text for pair in sentences.pairs(300, 0) for text in pair]
  tokens_lib.make_tokenizer(texts, 500, path)
  return tokens_lib.Tokens(path, 32)


@pytest.mark.parametrize('kind', ['jsonl', 'csv', 'tsv', 'csv.gz', 'parquet'])
def test_every_format_gives_the_same_rows(kind, tmp_path):
  path = tmp_path / f'x.{kind}'
  if kind == 'jsonl':
    write_jsonl(path, [dict(zip(NAMES, row, strict=True)) for row in ROWS])
  elif kind == 'parquet':
    pyarrow = pytest.importorskip('pyarrow')
    from pyarrow import parquet

    table = dict(zip(NAMES, map(list, zip(*ROWS, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(table), path)
  else:
    write_csv(path, separator='\t' if kind == 'tsv' else ',')
    if kind == 'csv.gz':
      path.write_bytes(gzip.compress(path.read_bytes()))
  # The order is that of the columns wanted.
  found = columns.read(path, NAMES[::-1])
  assert list(zip(*found[::-1], strict=True)) == ROWS


@pytest.fixture(scope='module')
def tfds_dataset(tmp_path_factory):
  """The folder of a prepared TFDS dataset of ROWS."""
  tfds = pytest.importorskip('tensorflow_datasets')

  class Made(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')
    pkg_dir_path = tmp_path_factory.mktemp('code')

    def _info(self):
      texts = {name: tfds.features.Text() for name in NAMES}
      label = tfds.features.ClassLabel(names=['left', 'right'])
      features = {**texts, 'label': label, 'score': np.float32}
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, _):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for i, row in enumerate(ROWS):
        texts = dict(zip(NAMES, row, strict=True))
        yield i, {**texts, 'label': i, 'score': i + 0.5}

  folder = tmp_path_factory.mktemp('tfds')
  builder = Made(data_dir=str(folder), file_format='array_record')
  builder.download_and_prepare()
  return builder.data_dir


def test_texts_of_tfds(tfds_dataset):
  path = f'tfds:{tfds_dataset}:train'
  found = columns.read(path, (*NAMES, 'label', 'score'))
  in_order = sorted(zip(*found, strict=True))
  assert [row[:3] for row in in_order] == ROWS
  assert [row[3:] for row in in_order] == [('left', 0.5), ('right', 1.5)]
  (listed,) = columns.listing(path).values()
  assert listed.startswith('2 of 2 examples')
  scored = examples.open_texts(path, 'scored', NAMES[:2], target='score')
  assert sorted(scored.targets(np.arange(2))['score']) == [0.5, 1.5]
  entry = eval_sets.parse(f'clustering:{path}?columns=anchor,label')
  assert sorted(eval_sets.open_set(entry).first) == ['a dog', 'the sea']
  assert eval_sets.listing(entry) == columns.listing(path)
  for wrong, column, match in (
    (path, 'query', "no column 'query'; there are: .*anchor"),
    (path[:-5] + 'dev', 'anchor', "split 'dev'"),
    ('tfds:glue', 'anchor', 'must be tfds:NAME:SPLIT'),
    ('tfds:no_such:train', 'anchor', "dataset 'no_such': not known to TFDS"),
  ):
    with pytest.raises(ValueError, match=match) as error:
      columns.read(wrong, (column,))
    assert '\n' not in str(error.value)


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
  for name, row in zip(('b.csv', 'a.jsonl'), ROWS, strict=True):
    if name.endswith('csv'):
      write_csv(tmp_path / name, [row])
    else:
      write_jsonl(tmp_path / name, [dict(zip(NAMES, row, strict=True))])
  (tmp_path / 'notes.md').write_text('not read')
  assert columns.read(tmp_path, ('anchor',)) == [['the sea', 'a dog']]
  before = columns.listing(tmp_path)
  assert list(before) == ['a.jsonl', 'b.csv']
  write_csv(tmp_path / 'b.csv', ROWS)
  assert columns.listing(tmp_path)['b.csv'] != before['b.csv']


def test_positions_stand_for_columns_without_names(tmp_path):
  write_csv(tmp_path / 'x.csv', names=())
  assert columns.read(tmp_path / 'x.csv', (2, 0))[1] == ['a dog', 'the sea']
  with pytest.raises(ValueError, match='line 1: has 3 cells, and column 3'):
    columns.read(tmp_path / 'x.csv', (0, 3))


def test_a_missing_column_is_told_with_those_there(tmp_path):
  write_csv(tmp_path / 'x.csv')
  write_jsonl(tmp_path / 'x.jsonl', [{'text': 'a'}])
  with pytest.raises(
    ValueError, match="no column 'query'; there are: anchor, positive, negative"
  ):
    columns.read(tmp_path / 'x.csv', ('query',))
  with pytest.raises(ValueError, match=r"line 1: has no column 'q'.*: text"):
    columns.read(tmp_path / 'x.jsonl', ('q',))


@pytest.mark.parametrize(
  'name, content, match',
  [
    ('x.csv', b'anchor,positive\na,\xff\xfe\n', 'not UTF-8'),
    ('x.jsonl', b'{"anchor": "\xe9", "positive": "b"}\n', 'not UTF-8'),
    ('x.csv', b'anchor,positive\na,b\x00c\n', 'NUL'),
    ('x.tsv', b'anchor\tpositive\na\tb\x00c\n', 'NUL'),
    (
      'x.jsonl',
      b'{"anchor": "a", "positive": "b\\u0000"}\n',
      'row 1: has a NUL byte',
    ),
    ('x.jsonl', b'{"anchor": "a"\n', 'line 1: is no JSON'),
    ('x.jsonl', b'[1]\n', 'line 1: must be an object'),
    ('x.csv', b'anchor,positive\n', 'has no rows'),
    ('x.csv', b'', "no column 'anchor'; there are: none"),
    ('x.csv', b'anchor\na\n', "no column 'positive'; there are: anchor"),
    ('x.csv', b'anchor,positive\na\n', 'line 2: has 1 cells'),
    ('x.csv.gz', b'no gzip', 'cannot be read'),
    ('x.parquet', b'no parquet', 'cannot be read'),
    ('x.txt', b'a\n', r'must be a file, or a folder of files, ending in \.js'),
    ('x.jsonl', b'{"anchor": 3, "positive": "b"}\n', '3 in row 0 is no text'),
  ],
)
def test_bad_files_end_in_one_line(name, content, match, tmp_path):
  if name.endswith('parquet'):
    pytest.importorskip('pyarrow')
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=match) as error:
    examples.open_texts(tmp_path / name, 'pairs', ('anchor', 'positive'))
  assert '\n' not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_wrong_number_of_columns_is_refused(tmp_path):
  for kind, names in (('pairs', ('a',)), ('scored', NAMES), ('labelled', ())):
    with pytest.raises(ValueError, match=rf'must be \d.* for {kind}'):
      examples.open_texts(tmp_path, kind, names)


@pytest.mark.parametrize('score', ['5.1', '-1', 'nan', 'much', ''])
def test_scores_outside_their_range_are_refused(score, tmp_path):
  write_csv(tmp_path / 'x.csv', [('a', 'b', '1'), ('c', 'd', score)])
  with pytest.raises(ValueError, match=rf"score '{score}' of row 1.*\[0, 5\]"):
    examples.open_texts(
      tmp_path / 'x.csv', 'scored', NAMES[:2], target='negative'
    )


def test_any_number_of_hard_negatives(tmp_path):
  rows = [
    {'q': 'a', 'p': 'b', 'n': ['c', 'd'], 'm': 'e'},
    {'q': 'f', 'p': 'c', 'n': 'a'},
    {'q': 'g', 'p': 'h', 'n': None, 'm': ''},
  ]
  write_jsonl(tmp_path / 'x.jsonl', rows)
  found = examples.open_texts(
    tmp_path / 'x.jsonl', 'pairs', ('q', 'p', 'n', 'm')
  )
  named = [
    [found.texts[i] if i >= 0 else None for i in row] for row in found.text_NC
  ]
  assert named == [
    ['a', 'b', 'c', 'd', 'e'],
    ['f', 'c', 'a', None, None],
    ['g', 'h', None, None, None],
  ]


def test_empty_texts_are_left_out_and_counted():
  found = pairs([('a', 'b'), ('', 'c'), ('d', ' \t'), ('e', None), ('f', 'g')])
  assert (len(found), found.left_out) == (2, 3)
  with pytest.raises(ValueError, match='all of its 1 examples lack a text'):
    pairs([('', 'b')])
  with pytest.raises(ValueError, match='nothing to tell apart'):
    pairs([('a', 'b'), ('c', 'b')])


def test_truncation_and_padding_are_ours(tmp_path, tokens):
  theirs = json.loads(tokens.path.read_text())
  theirs['truncation'] = {
    'direction': 'Right',
    'max_length': 3,
    'strategy': 'LongestFirst',
    'stride': 0,
  }
  theirs['padding'] = {
    'strategy': {'Fixed': 7},
    'direction': 'Left',
    'pad_to_multiple_of': None,
    'pad_id': 0,
    'pad_type_id': 0,
    'pad_token': '[PAD]',
  }
  path = tmp_path / 'tokenizer.json'
  path.write_text(json.dumps(theirs))
  found = tokens_lib.Tokens(path, 32)
  texts = ['A girl is singing.', '', 'a girl ' * 50_000]
  token_NL, mask_NL = found(texts)
  assert token_NL.shape == (3, 32) and token_NL.dtype == np.int32
  assert mask_NL.sum(1).tolist() == [7, 0, 32]
  assert (token_NL[~mask_NL] == 0).all() and mask_NL[0, :5].all()
  # 100,000 words: cut, and counted.
  assert (found.num_texts, found.num_truncated) == (3, 1)
  np.testing.assert_array_equal(token_NL, tokens(texts)[0])


def test_a_tokenizer_is_the_same_each_time(tmp_path):
  texts = ['the seas', 'Some dogs run', 'é'] * 2
  for name in 'ab':
    tokens_lib.make_tokenizer(texts, 40, tmp_path / name)
  assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()
  found = tokens_lib.Tokens(tmp_path / 'a', 8)
  assert found.vocabulary_size <= 40
  with pytest.raises(ValueError, match='have no words'):
    tokens_lib.make_tokenizer(['', ' '], 40, tmp_path / 'c')
  (tmp_path / 'd').write_text('{}')
  with pytest.raises(ValueError, match=r'is no tokenizer\.json'):
    tokens_lib.Tokens(tmp_path / 'd', 8)
  with pytest.raises(ValueError, match='there is no such file'):
    tokens_lib.Tokens(tmp_path / 'e', 8)


def test_buckets_are_few():
  sizes = {tokens_lib.bucket(length, 500) for length in range(501)}
  assert sorted(sizes) == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 500]
  assert all(tokens_lib.bucket(x, 500) >= x for x in range(501))


def batches(sources, tokens, weights=(), seed=0, mesh=None, size=8, parts=1):
  mix = Mix(sources, weights, batch_size=size, seed=seed)
  mesh = mesh or sharding.make_mesh(1)
  return TextBatches(mix, tokens, mesh=mesh, parts=parts)


def first(found, start, count):
  stream = found.batches(start)
  try:
    return [jax.device_get(x) for x in itertools.islice(stream, count)]
  finally:
    stream.close()


def test_a_batch_holds_the_tokens_of_its_examples(tokens):
  rows = [
    (
      f'a girl sings {i}',
      'the sea ' * (i % 9 + 1) + str(i),
      *['a cat'] * (i % 2),
    )
    for i in range(20)
  ]
  source = pairs(rows, prompts=('find: ', ''))
  found = batches([source], tokens)
  batch = first(found, 0, 1)[0]
  visits = found._mix.rows(0)[1]
  # Eight queries, eight keys, and a hard negative of those that have one.
  for n, row in enumerate(visits):
    for column, text in enumerate(rows[row]):
      ids = tokens.ids([('find: ', '')[min(column, 1)] + text])[0]
      owned_RT = batch['owner'] == 8 * column + n + 1
      assert len(np.unique(np.nonzero(owned_RT)[0])) == 1
      assert batch['token'][owned_RT].tolist() == ids
  assert (batch['owner'] > 0).sum() == sum(
    len(tokens.ids([text])[0]) for row in visits for text in rows[row]
  ) + 8 * len(tokens.ids(['find: '])[0])
  there_N = np.array([row % 2 for row in visits])
  assert ((batch['text'][:, 2] >= 0) == there_N).all()
  line = found.report()
  # The only hard negative stands in the batch several times, and counts.
  assert '% padding' in line and 'duplicate' not in line
  assert found.report() is None


def test_any_step_can_be_begun_at(tokens):
  sources = [pairs(sentences.pairs(30, seed)) for seed in (0, 1)]
  for group, weights in ((sources[:1], ()), (sources, (3, 1))):
    through = first(batches(group, tokens, weights), 0, 12)
    later = first(batches(group, tokens, weights), 9, 3)
    for batch, right in zip(later, through[9:], strict=True):
      for name in right:
        np.testing.assert_array_equal(batch[name], right[name])
    other = first(batches(group, tokens, weights, seed=1), 0, 1)[0]
    assert (other['text'] != through[0]['text']).any()


def test_an_epoch_has_every_example_at_most_once(tokens):
  source = pairs(sentences.pairs(30, 0))
  mix = batches([source], tokens)._mix
  assert mix.steps_per_epoch == 3
  seen = np.concatenate([mix.rows(step)[1] for step in range(3)])
  assert len(set(seen.tolist())) == 24


def test_a_mix_has_its_weights(tokens):
  sources = [pairs(sentences.pairs(n, n)) for n in (40, 16)]
  mix = Mix(sources, (3, 1), batch_size=8, seed=0)
  turns = [mix.rows(step) for step in range(2000)]
  assert sum(which == 1 for which, _ in turns) == 500
  # Two batches of the second make an epoch of it.
  second = [rows_N for which, rows_N in turns if which == 1]
  for start in range(0, 20, 2):
    assert len({*second[start], *second[start + 1]}) == 16
  for weights, match in (
    ((1,), '2 datasets need one each'),
    ((1, 0), 'must be positive'),
  ):
    with pytest.raises(ValueError, match=match):
      Mix(sources, weights, batch_size=8, seed=0)
  with pytest.raises(ValueError, match='batch_size 17: there are only 16'):
    Mix(sources, (), batch_size=17, seed=0)


def test_parts_and_devices_have_their_own_rows(tokens):
  """Example 5 of 16 is on device 2 of 8, in part 1 of 2, its third example."""
  source = pairs(sentences.pairs(30, 0))
  text_NC = first(batches([source], tokens, size=16), 1, 1)[0]['text']
  found = batches([source], tokens, mesh=sharding.make_mesh(), size=16, parts=2)
  batch = first(found, 1, 1)[0]
  np.testing.assert_array_equal(batch['text'], text_NC)
  each = len(batch['token']) // 8
  for n, texts in enumerate(text_NC):
    device, part = n // 2, n % 2
    token_RT, owner_RT = (
      batch[name][device * each : (device + 1) * each][part::2]
      for name in ('token', 'owner')
    )
    for column, number in enumerate(texts):
      ids = tokens.ids([source.texts[number]])[0]
      assert token_RT[owner_RT == 8 * column + n // 2 + 1].tolist() == ids


def test_rows_are_full_and_few():
  rng = np.random.default_rng(0)
  length_S = rng.integers(0, 40, 300)
  group_S = np.arange(300) % 3
  found = rows.pack(length_S, group_S, 48)
  assert found.length == 64
  used = np.zeros((3, found.number, 64), int)
  for s, length in enumerate(length_S):
    start = found.start_S[s]
    used[group_S[s], found.row_S[s], start : start + length] += 1
  assert used.max() == 1 and used.sum() == length_S.sum()
  assert used.mean() > 0.8
  sizes = {rows._rounded(count) for count in range(1, 1025)}
  assert len(sizes) <= 8 * 8 and all(
    count <= rows._rounded(count) <= max(1.125 * count, 1)
    for count in range(1, 1025)
  )


def test_duplicates_are_no_negatives_and_are_counted(tokens):
  rows = [('a', 'b'), ('a', 'c'), ('d', 'b'), ('e', 'a')] * 2
  found = batches([pairs(rows)], tokens)
  first(found, 0, 1)
  line = found.report()
  assert 'times a duplicate was no negative' in line
  rows = [('a', 'b')] * 40 + [('c', 'd')]
  found = batches([pairs(rows)], tokens)
  first(found, 0, 8)
  assert 'examples had only duplicates beside them' in found.report()


def test_scores_and_labels_come_with_the_texts(tokens):
  scored = examples.open_texts('sentences', 'scored', ())
  batch = first(batches([scored], tokens), 0, 1)[0]
  rows = batches([scored], tokens)._mix.rows(0)[1]
  np.testing.assert_array_equal(batch['score'], scored.targets(rows)['score'])
  labelled = examples.open_texts('sentences', 'labelled', ())
  batch = first(batches([labelled], tokens), 0, 1)[0]
  assert batch.keys() == {'text', 'token', 'owner', 'label'}
  assert labelled.class_names[0] == 'animals 15'


def test_a_teachers_vectors_come_with_the_texts(tokens, tmp_path):
  # The second row has no text, and its vector is left out, too.
  write_jsonl(tmp_path / 'x.jsonl', [{'t': x} for x in ('a', '', 'b', 'c')])
  teacher_ME = np.arange(12, dtype=np.float16).reshape(4, 3)
  path = tmp_path / 'teacher.npy'
  np.save(path, teacher_ME)
  open_ = lambda: examples.open_texts(
    tmp_path / 'x.jsonl', 'taught', ('t',), teacher=str(path)
  )
  source = open_()
  assert (len(source), source.left_out, source.teacher_width) == (3, 1, 3)
  found = batches([source], tokens, size=3)
  (batch,) = first(found, 0, 1)
  assert batch['teacher'].dtype == np.float32
  rows = found._mix.rows(0)[1]
  np.testing.assert_array_equal(batch['teacher'], teacher_ME[[0, 2, 3]][rows])
  before = source.listing()
  np.save(path, teacher_ME + 1)
  assert open_().listing() != before
  teacher_ME[2, 1] = np.nan
  for wrong, match in (
    (teacher_ME[1:], r'has 3 rows, and .*x\.jsonl 4$'),
    (teacher_ME, 'row 2 is not finite'),
    (teacher_ME[0], r'of shape \(3,\), and must hold floats'),
    (np.zeros((4, 3), int), 'holds int64'),
  ):
    np.save(path, wrong)
    with pytest.raises(ValueError, match=match) as error:
      open_()
    assert '\n' not in str(error.value) and str(path) in str(error.value)
  path.unlink()
  with pytest.raises(ValueError, match=r'teacher .*: cannot be read'):
    open_()


@pytest.mark.parametrize(
  'text, match',
  [
    ('x.csv', r'\[name=\]kind:path'),
    ('other:x.csv', r'\[name=\]kind:path'),
    ('a/b=sts:x.csv', 'must have no /'),
    ('sts:x.csv?columns=a,b', 'must have 3 columns for sts'),
    ('sts:x.csv?range=5,0', 'range=0,5'),
    ('sts:x.csv?rows=5', "'rows' must be columns or range"),
    ('classification:x.csv', 'needs train=FILE'),
    ('clustering:x.csv?train=y.csv', "'train' must be columns or range"),
  ],
)
def test_entries_of_sets_that_are_none(text, match):
  with pytest.raises(ValueError, match=match):
    eval_sets.parse(text)


def test_sets_are_opened(tmp_path):
  write_csv(tmp_path / 'x.csv', [('a', 'b', '1'), ('c', 'd', '0')], names=())
  entry = eval_sets.parse(f'mine=sts:{tmp_path}/x.csv?columns=0,1,2&range=0,1')
  found = eval_sets.open_set(entry)
  assert found[:4] == ('mine', 'sts', ['a', 'c'], ['b', 'd'])
  assert found.target.tolist() == [1, 0]
  write_csv(tmp_path / 'y.csv', [('a', '1'), ('c', '1')], ('text', 'label'))
  with pytest.raises(ValueError, match=r"all rows of .* have the label '1'"):
    eval_sets.open_set(eval_sets.parse(f'clustering:{tmp_path}/y.csv'))
  write_csv(tmp_path / 'z.csv', [('e', '2'), ('f', '1')], ('text', 'label'))
  entry = f'classification:{tmp_path}/y.csv?train={tmp_path}/z.csv'
  found = eval_sets.open_set(eval_sets.parse(entry))
  assert (found.first, found.second) == (['a', 'c'], ['e', 'f'])
  assert [x.tolist() for x in found.target] == [[0, 0], [1, 0]]
  listed = eval_sets.listing(eval_sets.parse(entry))
  assert list(listed) == ['y.csv', 'train/z.csv']
  entry = f'classification:{tmp_path}/z.csv?train={tmp_path}/y.csv'
  with pytest.raises(ValueError, match=r'all rows of .*y\.csv have the label'):
    eval_sets.open_set(eval_sets.parse(entry))
  with pytest.raises(ValueError, match="'sts' stands twice"):
    eval_sets.check(['sts:a.csv', 'sts:b.csv'])


@pytest.mark.parametrize(
  'content, match',
  [
    (b'sentence1,sentence2,score\na,\xff,1\n', 'is not UTF-8'),
    (b'sentence1,sentence2,score\na\x00,b,1\n', 'has a NUL byte'),
    (b'sentence1,score\na,1\n', "no column 'sentence2'; there are: sentence1"),
    (b'sentence1\na\n', "no column 'sentence2'; there are: sentence1"),
    (b'sentence1,sentence2,score\na,b,6\n', r"score '6' of row 0 .*\[0, 5\]"),
    (b'q\t\xffd\t1\n', 'is not UTF-8'),
    (b'q\td\x00\t1\n', 'has a NUL byte'),
    (b'q\td\n', 'line 1: has 2 cells'),
  ],
)
def test_bad_sets_end_in_one_line(content, match, tmp_path):
  entry = f'sts:{tmp_path}/x.csv'
  (tmp_path / 'x.csv').write_bytes(content)
  if content.startswith(b'q'):
    entry = f'retrieval:{tmp_path}'
    (tmp_path / 'qrels.tsv').write_bytes(content)
    for name in ('corpus', 'queries'):
      write_jsonl(tmp_path / f'{name}.jsonl', [{'_id': 'd', 'text': 'a'}])
  with pytest.raises(ValueError, match=match) as error:
    eval_sets.open_set(eval_sets.parse(entry))
  assert '\n' not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_folder_in_beirs_layout(tmp_path):
  write_jsonl(
    tmp_path / 'corpus.jsonl',
    [
      {'_id': 'd1', 'title': 'Sea', 'text': 'is wide'},
      {'_id': 'd2', 'text': 'a dog'},
    ],
  )
  write_jsonl(
    tmp_path / 'queries.jsonl',
    [{'_id': 'q1', 'text': 'ocean'}, {'_id': 'q2', 'text': 'nothing'}],
  )
  grades = tmp_path / 'qrels.tsv'
  grades.write_text('query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td2\t0\n')
  found = eval_sets.open_set(eval_sets.parse(f'retrieval:{tmp_path}'))
  assert found.first == ('ocean',) and found.target == ({0: 2.0},)
  assert found.second == ['Sea is wide', 'a dog']
  grades.write_text('q1\td1\tmuch\nq2\td2\tmuch\n')
  with pytest.raises(ValueError, match='row 2: must be query, document'):
    eval_sets.open_set(eval_sets.parse(f'retrieval:{tmp_path}'))
  grades.unlink()
  with pytest.raises(ValueError, match=r'has no qrels\.tsv or'):
    eval_sets.open_set(eval_sets.parse(f'retrieval:{tmp_path}'))

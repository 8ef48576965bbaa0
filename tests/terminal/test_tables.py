"""Tables as Markdown and as CSV, in which no cell is a formula."""

import csv
import io

import pytest

from mrl_jax.terminal import tables


def test_tables_as_markdown_and_csv():
  values = {'loss@8': 0.5, 'top1@8': 50.0, 'knn10@8': 1.0, 'knn10@12': 2.0}
  table = tables.widths(values | {'shot5way10@12': 1 / 3}, (8, 12))
  assert tables.markdown(table).splitlines() == [
    '| width | loss | top-1 % | 10-NN % | 5-shot 10-way % |',
    '| --- | ---: | ---: | ---: | ---: |',
    '| 8 | 0.50 | 50.00 | 1.00 | – |',
    '| 12 | – | – | 2.00 | 0.33 |',
  ]
  assert tables.csv(table).splitlines()[1:] == [
    '8,0.5,50.0,1.0,',
    '12,,,2.0,0.3333333333333333',
  ]
  quoted = tables.Table(('class',), [('a,b|c',)])
  assert tables.csv(quoted) == 'class\n"a,b|c"\n'
  assert 'a,b\\|c' in tables.markdown(quoted)


@pytest.mark.parametrize('begin', list('=+-@\t\r\n＝＋－＠'))
def test_no_cell_of_a_csv_is_a_formula(begin):
  name = f'{begin}cmd|" /C calc"!A0'
  table = tables.Table(
    ('class', name), [(name, -1.5), ('a\r=1', -2), (None, 3)]
  )
  text = tables.csv(table)
  rows = list(csv.reader(io.StringIO(text, newline='')))
  assert rows == [
    ['class', f"'{name}"], [f"'{name}", '-1.5'], ['a\r=1', '-2'], ['', '3']
  ]  # fmt: skip
  # Nor does a carriage return begin a row of its own.
  assert '"a\r=1",-2\n' in text

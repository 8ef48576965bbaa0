import pytest

from mrl_jax.workdir import files


def make(path, text):
  with files.replacing_folder(path) as temporary:
    (temporary / 'in').mkdir()
    (temporary / 'in' / 'file').write_text(text)


def test_a_folder_is_replaced_whole(tmp_path):
  path = tmp_path / 'a' / 'folder'
  make(path, 'old')
  (path / 'more').touch()
  with files.replacing_folder(path) as temporary:
    (temporary / 'file').write_text('new')
    assert (path / 'in' / 'file').read_text() == 'old'
  assert [part.name for part in path.iterdir()] == ['file']
  assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path):
  path = tmp_path / 'folder'
  make(path, 'old')
  with pytest.raises(KeyboardInterrupt), files.replacing_folder(path) as new:
    (new / 'half').touch()
    raise KeyboardInterrupt
  assert (path / 'in' / 'file').read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_run_left(tmp_path):
  path = tmp_path / 'folder'
  make(path, 'old')
  # Killed between the two renames.
  path.rename(tmp_path / '.folder.old')
  (tmp_path / '.folder.tmp').mkdir()
  (tmp_path / '.folder.tmp' / 'half').touch()
  with pytest.raises(KeyboardInterrupt), files.replacing_folder(path):
    raise KeyboardInterrupt
  assert (path / 'in' / 'file').read_text() == 'old'
  make(path, 'new')
  assert (path / 'in' / 'file').read_text() == 'new'
  assert list(tmp_path.iterdir()) == [path]

"""Turns a config into its fixed-feature (FF) baseline of one width."""


def of_width(config, width: str):
  """The classifier reads the first `width` features of the same encoder."""
  if not width.isdecimal() or not int(width):
    raise ValueError(
      f'width {width!r}: the config needs a positive one, as in '
      'configs/digits_ff.py:16'
    )
  config.name = f'{config.name.removesuffix("_mrl")}_ff_{width}'
  config.head = 'fixed'
  config.nesting_dims = (int(width),)
  config.eval_dims = ()
  return config

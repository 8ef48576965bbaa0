"""The report in a real browser: all drawn, nothing fetched, and it moves."""

import json
import pathlib
import shutil

import pytest

from mrl_jax.stages import report
from tests.report import analyses

FLAGS = (
  '--headless --no-sandbox --disable-gpu --disable-quic --no-first-run '
  '--disable-background-networking --disable-component-update --disable-sync'
)
# For the map in 3-D, where there is no graphics card.
SOFTWARE_3D = ('--enable-unsafe-swiftshader',)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  config, workdir = analyses.make_run(tmp_path_factory.mktemp('run'))
  report.run(config, workdir, workdir.checkpoint(3))
  return workdir.report / 'index.html'


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  chromium = shutil.which('chromium')
  driver = shutil.which('chromedriver')
  if not (chromium and driver):
    pytest.skip('needs chromium and chromium-driver')
  webdriver = pytest.importorskip('selenium.webdriver')
  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  profile = tmp_path_factory.mktemp('profile')
  for flag in (*FLAGS.split(), *SOFTWARE_3D, f'--user-data-dir={profile}'):
    options.add_argument(flag)
  logs = {'browser': 'ALL', 'performance': 'ALL'}
  options.set_capability('goog:loggingPrefs', logs)
  service = webdriver.ChromeService(driver)
  opened = webdriver.Chrome(options=options, service=service)
  yield opened
  opened.quit()


def show(browser, page: pathlib.Path, *, width=1280, dark=False):
  browser.execute_cdp_cmd(
    'Emulation.setDeviceMetricsOverride',
    {'width': width, 'height': 844, 'deviceScaleFactor': 1, 'mobile': False},
  )
  scheme = {
    'name': 'prefers-color-scheme',
    'value': 'dark' if dark else 'light',
  }
  browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [scheme]})
  browser.get_log('browser')
  browser.get_log('performance')
  browser.get(page.as_uri())
  wait(browser, "document.documentElement.dataset.drawn === 'yes'")


def wait(browser, condition: str) -> None:
  """Until a JavaScript expression is true."""
  from selenium.webdriver.support.ui import WebDriverWait

  script = f'return {condition}'
  WebDriverWait(browser, 10, 0.05).until(lambda b: b.execute_script(script))


@pytest.mark.parametrize('width, dark', [(1280, False), (390, True)])
def test_everything_is_drawn_and_fits(browser, page, width, dark):
  show(browser, page, width=width, dark=dark)
  marks = browser.execute_script("""
    return [...document.querySelectorAll('.plot')].map(plot => [
      plot.id, plot.querySelectorAll(
        '.point, .js-line, .heatmaplayer image, .textpoint').length]);
  """)
  assert len(marks) == 15
  assert all(count for _, count in marks), marks
  assert browser.execute_script("""
    return [...document.images].every(
      image => image.complete && image.naturalWidth)
  """)
  # Nothing is wider than the screen.
  fits = browser.execute_script("""
    const page = document.documentElement;
    return page.scrollWidth <= page.clientWidth;
  """)
  assert fits
  assert browser.get_log('browser') == []
  events = [
    json.loads(entry['message'])['message']
    for entry in browser.get_log('performance')
  ]
  asked = [
    event['params']['request']['url']
    for event in events
    if event['method'] == 'Network.requestWillBeSent'
  ]
  # Images inside the page count as requests, too.
  assert [url for url in asked if not url.startswith('data:')] == [
    page.as_uri()
  ]


def test_both_themes_can_be_read(browser, page):
  """Ink against its ground, at least WCAG's 4.5 to 1, in figures too."""
  grounds = []
  for dark in (False, True):
    show(browser, page, dark=dark)
    colors = browser.execute_script("""
      const of = (selector, name) =>
        getComputedStyle(document.querySelector(selector))[name];
      return [of('.card', 'backgroundColor'), of('h1', 'color'),
        of('.lead', 'color'), of('.card figcaption', 'color'),
        of('#plot-accuracy .xtick text', 'fill'),
        of('#plot-accuracy .legendtext', 'fill')];
    """)
    ground, *inks = map(rgb, colors)
    grounds.append(luminance(ground))
    for ink in inks:
      high, low = sorted((luminance(ink), grounds[-1]), reverse=True)
      assert (high + 0.05) / (low + 0.05) >= 4.5, (dark, colors)
  assert grounds[1] < 0.05 < 0.9 < grounds[0]


def rgb(text: str) -> tuple[float, ...]:
  return tuple(map(float, text[text.index('(') + 1 : -1].split(',')[:3]))


def luminance(color: tuple[float, ...]) -> float:
  """Relative, as WCAG 2 defines it."""
  linear = [
    c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
    for c in (value / 255 for value in color)
  ]
  return sum(
    w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=False)
  )


def slide(browser, value: int) -> None:
  browser.execute_script(
    """
    const slider = document.querySelector('#space input');
    slider.value = arguments[0];
    slider.dispatchEvent(new Event('input'));
  """,
    value,
  )


def places(browser) -> list[str]:
  return browser.execute_script("""
    return [...document.querySelectorAll('#space .scatterlayer .point')].map(
      point => point.getAttribute('transform'));
  """)


def test_the_slider_moves_the_points(browser, page):
  show(browser, page)
  before = places(browser)
  slide(browser, 0)
  wait(browser, "document.querySelector('#space output').value === 'width 2'")
  wait(browser, '!document.querySelector("#space .plot")._transitioning')
  after = places(browser)
  assert len(before) == len(after) == 30
  moved = [a != b for a, b in zip(before, after, strict=True)]
  assert sum(moved) > 25
  assert browser.get_log('browser') == []


def test_touching_a_point_shows_its_image(browser, page):
  from selenium.webdriver import ActionChains

  show(browser, page)
  seen = "document.querySelector('#space .seen').dataset.index"
  first = browser.execute_script(f'return {seen}')
  points = browser.find_elements('css selector', '#space .scatterlayer .point')
  index = next(i for i in range(29, 0, -1) if str(i) != first)
  browser.execute_script(
    "document.querySelector('#space').scrollIntoView({behavior: 'instant'})"
  )
  ActionChains(browser).move_to_element(points[index]).perform()
  wait(browser, f"{seen} !== '{first}'")
  index = int(browser.execute_script(f'return {seen}'))
  thumb = browser.execute_script("""
    const style = getComputedStyle(document.querySelector('#space .thumb'));
    return [style.backgroundImage.slice(0, 22), style.backgroundPosition];
  """)
  row, column = divmod(index, 6)
  assert thumb == [
    'url("data:image/jpeg;b',
    f'{-112 * column}px {-112 * row}px',
  ]
  label = browser.find_element('css selector', '[data-seen=class]').text
  assert label == f'<class {index % 10}>'
  assert browser.get_log('browser') == []


@pytest.mark.parametrize('view', ['pca2', 'pca3'])
def test_other_maps(browser, page, view):
  show(browser, page)
  browser.execute_script(
    f"document.querySelector('[data-view={view}]').click()"
  )
  slide(browser, 1)
  layer = '.gl-container canvas' if view == 'pca3' else '.scatterlayer .point'
  wait(browser, f"document.querySelector('#space {layer}')")
  dims = browser.execute_script(
    "return 'z' in document.querySelector('#space .plot').data[0]"
  )
  assert dims == (view == 'pca3')
  errors = [e for e in browser.get_log('browser') if e['level'] == 'SEVERE']
  assert errors == []

"""The page in a real browser, and what may not leave a workdir."""

import re
import shutil

import numpy as np
import pytest

from kdjax.report import build
from kdjax.report import gather
from tests import simulated

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
)
PATIENTS = {"name": "folder", "image_size": 48}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A finished run whose data set is called "phantom" and holds patients."""
  path = tmp_path_factory.mktemp("run")
  frame = simulated.per_case(np.random.default_rng(0), simulated.effects())
  frame["case"] = frame["case"].replace("case000", "</script><b>&\u00e9")
  settings = simulated.config(data=PATIENTS, question="Which <level>?")
  simulated.workdir(path, frame, settings, name="phantom")
  simulated.predictions(path, frame)
  build.write(gather.results(path, settings, simulated.ARMS))
  return path


@pytest.fixture(scope="module")
def browser(workdir, tmp_path_factory):
  webdriver = pytest.importorskip("selenium.webdriver")
  if not (CHROMIUM and DRIVER):
    pytest.skip("needs chromium and chromedriver")
  options = webdriver.ChromeOptions()
  options.binary_location = CHROMIUM
  for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('user')}"):
    options.add_argument(flag)
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  service = webdriver.ChromeService(DRIVER)
  driver = webdriver.Chrome(options=options, service=service)
  driver.get((workdir / "report" / "index.html").as_uri())
  wait(driver, "return document.querySelectorAll('#panels canvas').length > 1")
  yield driver
  driver.quit()


def wait(driver, condition):
  from selenium.webdriver.support.wait import WebDriverWait

  WebDriverWait(driver, 30).until(lambda x: x.execute_script(condition))


def column(driver, table, index):
  return driver.execute_script(
    "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map("
    "x => x.cells[arguments[1]].dataset.value)",
    table,
    index,
  )


def test_the_console_is_silent_and_nothing_comes_from_the_network(browser):
  assert browser.get_log("browser") == []
  loaded = browser.execute_script(
    "return performance.getEntriesByType('resource').map(x => x.name)"
  )
  assert [x for x in loaded if not x.startswith("data:")] == []


def test_it_opens_with_the_question(workdir):
  content = (workdir / "report" / "index.html").read_text()
  assert "<h1>Which &lt;level&gt;?</h1>" in content


def test_every_image_loads(browser):
  sizes = browser.execute_script(
    "return [...document.images].map(x => x.complete * x.naturalWidth)"
  )
  assert len(sizes) >= 4 + 3
  assert all(sizes)


def test_every_column_of_the_table_sorts_both_ways(browser):
  heads = browser.find_elements("css selector", "#table table:first-of-type th")
  for index, head in enumerate(heads[:10]):
    for turn in (1, -1):
      head.find_element("css selector", "button").click()
      found = column(browser, "#table .scroll:first-of-type", index)
      known = [x for x in found if x]
      assert found[: len(known)] == known  # What is missing comes last.
      if index:
        known = [turn * float(x) for x in known]
        assert known == sorted(known), head.text
      said = {1: "ascending", -1: "descending"}[turn]
      assert head.get_attribute("aria-sort") == said


def test_a_chosen_case_is_drawn_with_both_contours(browser):
  row = browser.find_elements("css selector", "#list tbody tr")[3]
  name = row.find_element("css selector", "td").text
  row.click()
  wait(
    browser,
    f"return document.getElementById('panels').dataset.shown === '{name}'",
  )
  colours = browser.execute_script(
    """
    return [...document.querySelectorAll('#panels canvas')].map((canvas) => {
      const pen = canvas.getContext('2d');
      const p = pen.getImageData(0, 0, canvas.width, canvas.height).data;
      let grey = 0, green = 0, red = 0;
      for (let i = 0; i < p.length; i += 4) {
        green += p[i + 1] > p[i] + 90;
        red += p[i] > p[i + 2] + 90;
        grey += p[i] === p[i + 1] && p[i] > 20;
      }
      return [grey, green, red];
    })
    """
  )
  assert len(colours) == 1 + 14
  assert colours[0][1:] == [0, 0]  # The image alone.
  assert all(min(x) > 50 for x in colours[1:])
  assert all(x[0] > 1000 for x in colours)


def test_keys_alone_sort_and_go_through_the_cases(browser):
  from selenium.webdriver.common.keys import Keys

  def send(key):
    browser.switch_to.active_element.send_keys(key)

  head = browser.find_element("css selector", "#list th")
  browser.execute_script("arguments[0].firstChild.focus()", head)
  send(Keys.ENTER)
  assert head.get_attribute("aria-sort") == "ascending"
  stops = "#list tr[tabindex='0']"
  assert len(browser.find_elements("css selector", stops)) == 1
  rows = browser.find_elements("css selector", "#list tbody tr")
  names = [x.find_element("css selector", "td").text for x in rows]
  browser.execute_script("document.querySelector(arguments[0]).focus()", stops)
  for key, name in (
    (Keys.HOME, names[0]),
    (Keys.ARROW_DOWN, names[1]),
    (Keys.END, names[-1]),
    (Keys.ARROW_UP, names[-2]),
  ):
    send(key)
    wait(browser, f"return panels.dataset.shown === {name!r}")
  row = browser.switch_to.active_element
  assert row.get_attribute("aria-selected") == "true"
  assert row.find_element("css selector", "td").text == names[-2]
  assert len(browser.find_elements("css selector", stops)) == 1


def test_cases_are_found_by_name(browser):
  field = browser.find_element("id", "find")
  field.send_keys("case01")
  shown = [
    x.text
    for x in browser.find_elements("css selector", "#list td:first-child")
    if x.is_displayed()
  ]
  assert sorted(shown) == [f"case01{i}" for i in range(10)]
  field.clear()


def test_a_name_cannot_break_out_of_the_page(browser):
  names = browser.execute_script(
    "return [...document.querySelectorAll('#list td:first-child')]"
    ".map(x => x.textContent)"
  )
  assert "</script><b>&\u00e9" in names


@pytest.mark.parametrize("width", [400, 1400])
def test_it_is_readable_at(browser, workdir, width):
  # Headless windows do not get narrower than 500, devices do.
  browser.execute_cdp_cmd(
    "Emulation.setDeviceMetricsOverride",
    {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
  )
  wide, inner, seen = browser.execute_script(
    "const page = document.documentElement;"
    "return [page.scrollWidth, page.clientWidth, innerWidth]"
  )
  assert seen == width
  assert wide <= inner  # Only tables scroll sideways.
  small = browser.execute_script(
    "return Math.min(...[...document.querySelectorAll('p, td, th, dd, li')]"
    ".filter(x => x.offsetParent).map("
    "x => parseFloat(getComputedStyle(x).fontSize)))"
  )
  assert small >= 13
  browser.save_screenshot(str(workdir / f"page_{width}.png"))


def files_of(folder):
  return {x.relative_to(folder).as_posix() for x in folder.rglob("*.*")}


@pytest.mark.slow
def test_images_of_patients_stay_in_the_workdir(workdir, tmp_path):
  settings = simulated.config(data=PATIENTS)
  build.publish(gather.results(workdir, settings, simulated.ARMS), tmp_path)
  found = files_of(tmp_path)
  assert {"table.csv", "comparisons.csv", "figures/forest.png"} <= found
  assert not [x for x in found if "cases/" in x or x.endswith(".npz")]
  page = (tmp_path / "index.html").read_text()
  assert 'id="cases-data"' not in page
  assert "image/jpeg" not in page
  text = (tmp_path / "README.md").read_text()
  pictures = re.findall(r"\]\((figures/.*?)\)", text)
  assert pictures and not [x for x in pictures if "cases" in x]
  assert all((tmp_path / x).exists() for x in pictures)
  plots = len(list((tmp_path / "figures").glob("*.png")))
  assert len(re.findall("data:image/", page)) == plots
  kept = (workdir / "report" / "index.html").read_text()
  assert 'id="cases-data"' in kept


@pytest.mark.slow
def test_phantoms_may_go_along(workdir, tmp_path):
  build.publish(
    gather.results(workdir, simulated.config(), simulated.ARMS), tmp_path
  )
  assert "figures/cases/best.png" in files_of(tmp_path)
  assert not [x for x in files_of(tmp_path) if x.endswith(".npz")]
  # A second copy, of patients, takes away what the first one brought.
  patients = simulated.config(data=PATIENTS)
  build.publish(gather.results(workdir, patients, simulated.ARMS), tmp_path)
  assert "figures/cases/best.png" not in files_of(tmp_path)

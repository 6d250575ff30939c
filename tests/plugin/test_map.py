"""The map of a table, in a real browser."""

import numpy
import pytest
from selenium.webdriver.common.keys import Keys

from browsing import PAGE
from instances import nearest


def test_every_row_is_a_point(browser, posts):
    canvas = browser.open_map(PAGE)
    assert browser.run("return arguments[0].faissMap.count", canvas) == 300
    assert "300 rows" in browser.one(".faiss-tools").text
    # Near rows are near each other on the map: the clusters that the vectors come from.
    places = numpy.array([browser.screen(str(id)) for id in range(1, 41)])
    cluster = numpy.arange(40) % 8
    spread = numpy.mean([places[cluster == c].std(axis=0).max() for c in range(8)])
    assert spread < 0.5 * places.std(axis=0).min()


def test_where_the_points_are(browser, posts):
    """The two main components, up to their signs, as NumPy finds them."""
    browser.open_map(PAGE)
    drawn = numpy.array([browser.screen(str(id)) for id, _ in posts])
    drawn -= drawn.mean(axis=0)
    matrix = numpy.array([vector for _, vector in posts], dtype="f8")
    matrix -= matrix.mean(axis=0)
    _, _, axes = numpy.linalg.svd(matrix, full_matrices=False)
    for axis in range(2):
        expected = matrix @ axes[axis]
        assert abs(numpy.corrcoef(expected, drawn[:, axis])[0, 1]) > 0.999


def test_neighbours_are_highlighted(browser, posts):
    browser.open_map(PAGE + "?like=7")
    near = nearest(posts, dict(posts)[7], 11)[1:]
    shown = {browser.colour_at(str(id)) for id in near}
    assert browser.variable("near") in shown
    assert browser.colour_at("7") == browser.variable("current")
    legend = browser.one(".faiss-tools").text
    assert "nearest rows" in legend and "this row" in legend


def test_hovering_tells_the_label(browser):
    browser.open_map(PAGE + "?like=7")
    browser.move_to("7").perform()
    browser.wait(lambda: browser.one(".faiss-tip").is_displayed())
    assert browser.one(".faiss-tip").text == "Post 7"


def test_a_click_opens_the_row(browser):
    browser.open_map(PAGE + "?like=7")
    browser.move_to("7").click().perform()
    browser.wait(lambda: browser.driver.current_url.endswith("/blog/embeddings/7"))


def test_zooming_and_moving(browser):
    canvas = browser.open_map(PAGE + "?like=7")
    whole, before = browser.scale(), browser.screen("7")
    browser.all(".faiss-tools button")[0].click()
    assert browser.scale() == pytest.approx(1.5 * whole)
    browser.all(".faiss-tools button")[1].click()
    assert browser.scale() == pytest.approx(whole)
    browser.move_to("7").click_and_hold().move_by_offset(60, 30).release().perform()
    after = browser.screen("7")
    assert numpy.allclose([after[0] - before[0], after[1] - before[1]], [60, 30], atol=2)
    browser.all(".faiss-tools button")[2].click()
    assert numpy.allclose(browser.screen("7"), before, atol=0.5)
    # The wheel scrolls the page, with Ctrl it zooms.
    wheel = (
        "arguments[0].dispatchEvent(new WheelEvent('wheel',"
        " {deltaY: -300, ctrlKey: arguments[1], cancelable: true, bubbles: true}))"
    )
    browser.run(wheel, canvas, False)
    assert browser.scale() == pytest.approx(whole)
    browser.run(wheel, canvas, True)
    assert browser.scale() > 2 * whole
    assert browser.driver.current_url.endswith("?like=7")


def test_the_map_by_keyboard(browser):
    canvas = browser.open_map(PAGE + "?like=7")
    canvas.send_keys(Keys.ARROW_RIGHT)
    assert browser.chosen() == "7"
    assert browser.one("#faiss-map-at").text == "Post 7, this row"
    x = browser.screen("7")[0]
    canvas.send_keys(Keys.ARROW_RIGHT)
    second = browser.chosen()
    assert second != "7" and browser.screen(second)[0] > x
    assert f"Post {second}" in browser.one("#faiss-map-at").text
    before = browser.scale()
    canvas.send_keys("+")
    assert browser.scale() == pytest.approx(1.5 * before)
    canvas.send_keys(Keys.ENTER)
    browser.wait(lambda: browser.driver.current_url.endswith(f"/blog/embeddings/{second}"))


def test_a_large_table_is_sampled(browser):
    canvas = browser.open_map("/-/faiss/large/points?like=24998")
    count = browser.run("return arguments[0].faissMap.count", canvas)
    assert 10_000 <= count <= 20_100
    assert f"{count:,} of 25,001 rows, a sample" in browser.one(".faiss-tools").text
    # The row itself and its neighbours are always there.
    assert browser.colour_at("24998") == browser.variable("current")
    for row in browser.site.json("/-/faiss/large/points.json?like=24998")["rows"]:
        assert browser.screen(row["path"]) is not None

"""The pages in a real browser: what is rendered, keyboard, light and dark, and axe."""

import importlib.resources

import pytest
from selenium.webdriver.common.keys import Keys

from browsing import DESKTOP, PAGE, PHONE, Browser
from instances import nearest, vectors

# ---- searching ----


def test_a_search_from_the_form(browser, posts):
    browser.open(PAGE)
    browser.one("#faiss-like").send_keys("Post 7")
    browser.one("#faiss-k").clear()
    browser.one("#faiss-k").send_keys("4", Keys.ENTER)
    browser.wait(lambda: browser.all(".faiss-results"))
    shown = [cell.text for cell in browser.all(".faiss-results tbody th")]
    assert shown == [f"Post {id}" for id in nearest(posts, dict(posts)[7], 5)[1:]]
    browser.all(".faiss-results tbody th a")[0].click()
    assert browser.driver.current_url.endswith(f"/blog/embeddings/{shown[0].split()[1]}")


def test_a_filter_from_the_form(browser, posts):
    browser.open(PAGE + "?like=7")
    browser.one("select[name=_filter_column_1]").send_keys("lang")
    browser.one("input[name=_filter_value_1]").send_keys("de", Keys.ENTER)
    browser.wait(lambda: "lang__exact=de" in browser.driver.current_url)
    kept = [(id, vector) for id, vector in posts if id % 3 == 1 and id != 7]
    shown = [cell.text for cell in browser.all(".faiss-results tbody th")]
    assert shown == [f"Post {id}" for id in nearest(kept, dict(posts)[7], 10)]


def test_a_pasted_vector(browser, posts):
    browser.open(PAGE)
    browser.one(".faiss-paste summary").click()
    query = vectors(1, seed=9)[0]
    browser.one("#faiss-vector").send_keys(" ".join(str(float(number)) for number in query))
    browser.one(".faiss-paste button").click()
    browser.wait(lambda: browser.all(".faiss-results"))
    shown = [cell.text for cell in browser.all(".faiss-results tbody th")]
    assert shown == [f"Post {id}" for id in nearest(posts, query, 10)]


def test_similar_rows_of_a_row(browser, posts):
    browser.open("/blog/embeddings/7")
    shown = [link.text for link in browser.all(".faiss-similar-list a")]
    assert shown == [f"Post {id}" for id in nearest(posts, dict(posts)[7], 6)[1:]]
    browser.one(".faiss-similar p a").click()
    assert browser.one(".faiss h2").text == "Nearest to Post 7"


def test_the_menu_of_a_table_leads_to_its_page(browser):
    browser.open("/blog/embeddings")
    browser.one(".actions-menu-links summary").click()
    browser.wait(lambda: browser.all("a[href$='/-/faiss/blog/embeddings']")[0].is_displayed())
    browser.one(".actions-menu-links a[href$='/-/faiss/blog/embeddings']").click()
    assert browser.one(".faiss h1").text == "embeddings: nearest rows"


def test_without_scripts(browser, posts):
    browser.look(scripts=False)
    browser.open(PAGE + "?like=7")
    assert len(browser.all(".faiss-results tbody tr")) == 10
    assert "The map needs JavaScript" in browser.one("noscript").text
    browser.all(".faiss-results tbody td a")[0].click()
    assert browser.one(".faiss h2").text.startswith("Nearest to Post ")


# ---- looks ----

PAGES = {
    "overview": "/-/faiss",
    "table": PAGE,
    "results": PAGE + "?like=7&lang=de",
    "vector": PAGE + "?vector=1,2",
}


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_accessibility_and_layout(chromium, shown, page, dark, size):
    browser = Browser(chromium, shown)
    browser.look(size, dark)
    browser.open(PAGES[page])
    if page in ("table", "results"):
        browser.wait(lambda: browser.all(".faiss-plot canvas"))
    axe = (importlib.resources.files("axe_core_python") / "axe.min.js").read_text()
    browser.run(axe)
    # Within what this plugin makes: Datasette's own header is not ours.
    found = browser.driver.execute_async_script(
        "const done = arguments[0]; axe.run('section.content').then(done)"
    )
    assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
    assert len(found["passes"]) >= 10
    # Nothing sticks out to the side.
    assert browser.run("return document.documentElement.scrollWidth") <= size[0]
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    numbers = [int(number) for number in background[4:-1].split(",")]
    assert (sum(numbers) < 3 * 60) if dark else (sum(numbers) > 3 * 220)
    browser.driver.get_log("browser")  # the page with a mistake has its status as a complaint
    browser.look()


def test_nothing_comes_from_another_host(browser):
    browser.open_map(PAGE + "?like=7")
    loaded = browser.run(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert any("map.js" in name for name in loaded) and any("faiss.css" in name for name in loaded)
    assert all(name.startswith(browser.site.url) for name in loaded)

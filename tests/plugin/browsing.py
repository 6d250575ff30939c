"""Chromium, and a page in it."""

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

SWITCHES = """
--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars
--disable-background-networking --disable-component-update --disable-sync
""".split()
DESKTOP, PHONE = (1200, 900), (390, 844)
SECONDS = 200  # a busy machine takes its time
PAGE = "/-/faiss/blog/embeddings"


def start_chromium(profile):
    options = Options()
    options.binary_location = "/usr/bin/chromium"
    for switch in SWITCHES:
        options.add_argument(switch)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    driver.set_script_timeout(SECONDS)
    return driver


class Browser:
    def __init__(self, driver, site):
        self.driver = driver
        self.site = site
        self.look()

    def look(self, size=DESKTOP, dark=False, scripts=True):
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=1,
            mobile=size == PHONE,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", features=[scheme])
        self.cdp("Emulation.setScriptExecutionDisabled", value=not scripts)

    def cdp(self, command, **parameters):
        return self.driver.execute_cdp_cmd(command, parameters)

    def open(self, path):
        self.driver.get(self.site.url + path)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition):
        return WebDriverWait(self.driver, SECONDS).until(lambda _: condition())

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def open_map(self, path):
        self.open(path)
        self.wait(lambda: self.all(".faiss-plot canvas"))
        self.wait(
            lambda: self.run("return document.querySelector('canvas').faissMap !== undefined")
        )
        self.frame()
        self.run("document.querySelector('.faiss-plot').scrollIntoView({block: 'center'})")
        return self.one(".faiss-plot canvas")

    def frame(self):
        """Wait until what was asked for is painted."""
        self.driver.execute_async_script(
            "const done = arguments[0];"
            " requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        )

    def screen(self, path):
        """Where the row with this path is drawn, from the upper left corner of the canvas."""
        return self.run(
            "const map = document.querySelector('canvas').faissMap;"
            " return map.screen(map.place(arguments[0]))",
            path,
        )

    def chosen(self):
        return self.run("return document.querySelector('canvas').faissMap.chosen")

    def scale(self):
        return self.run("return document.querySelector('canvas').faissMap.view.scale")

    def colour_at(self, path):
        return self.run(
            """
            const canvas = document.querySelector('canvas');
            const [x, y] = canvas.faissMap.screen(canvas.faissMap.place(arguments[0]));
            const ratio = window.devicePixelRatio;
            const data = canvas.getContext('2d').getImageData(x * ratio, y * ratio, 1, 1).data;
            return '#' + [...data.slice(0, 3)].map((n) => n.toString(16).padStart(2, '0')).join('');
            """,
            path,
        )

    def variable(self, name):
        return self.run(
            "return getComputedStyle(document.body)"
            ".getPropertyValue('--faiss-' + arguments[0]).trim()",
            name,
        )

    def move_to(self, path):
        canvas = self.one(".faiss-plot canvas")
        x, y = self.screen(path)
        box = self.run(
            "const b = arguments[0].getBoundingClientRect(); return [b.width, b.height]", canvas
        )
        return ActionChains(self.driver, duration=50).move_to_element_with_offset(
            canvas, round(x - box[0] / 2), round(y - box[1] / 2)
        )

    def complaints(self):
        return [entry for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

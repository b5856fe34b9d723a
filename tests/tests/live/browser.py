"""Uses the live page in Chromium: `browser.py SCENARIO URL SCREENSHOT`.

A scenario is a function below. Each waits for what it expects, and never for time to pass.
"""

import re
import sys
from urllib.parse import urlsplit

from playwright.sync_api import Error, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 30_000
TITLES = ["container", "microVM, cold", "microVM, warm", "full VM"]


class Visitor:
    """A person with a browser, who knows the page's address."""

    def __init__(self, browser, url):
        self.browser = browser
        self.url = url
        parts = urlsplit(url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.token = parts.query.removeprefix("token=")
        self.complaints = []
        self.page = self.window()

    def window(self, **options):
        """Opens a window of a new profile, and listens to its complaints."""
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

        def listen(message):
            if message.type in ("error", "warning"):
                self.complaints.append(message.text)

        page.on("console", listen)
        return page

    def open(self, page=None):
        page = page or self.page
        page.goto(self.url)
        expect(page.locator("#connection")).to_have_text("Connected")
        return page

    def excuse(self, *reasons):
        """Forgets the complaints that a scenario has to cause."""
        self.complaints = [one for one in self.complaints if not any(reason in one for reason in reasons)]

    def panel(self, title, page=None):
        heading = (page or self.page).get_by_role("heading", name=title, exact=True)
        return (page or self.page).locator(".panel").filter(has=heading)

    def button(self, name, page=None):
        return (page or self.page).get_by_role("button", name=name, exact=True)

    def phase(self, title, text, page=None):
        expect(self.panel(title, page).locator(".phase")).to_have_text(text)

    def console(self, title, page=None):
        return self.panel(title, page).get_by_role("log")


def container_and_vm_run_side_by_side(visitor):
    visitor.open()
    for title in TITLES[:2]:
        visitor.phase(title, "not started")
        visitor.button(f"Start {title}").click()
    for title in TITLES[:2]:
        visitor.phase(title, "running")
        expect(visitor.console(title)).to_contain_text(f"hello from the {title}")
        timeline = visitor.panel(title).get_by_role("list", name=f"Timeline of {title}")
        steps = timeline.locator(".name")
        expect(steps).to_have_count(4)
        assert set(steps.all_inner_texts()) == {"command started", "kernel entered", "first byte", "ready"}
        for at in timeline.locator(".at").all_inner_texts():
            assert re.fullmatch(r"[\d.]+ (µs|ms|s)", at), at
        panel = visitor.panel(title)
        expect(panel.get_by_role("meter", name=f"Memory of {title}")).to_have_attribute("aria-valuetext", re.compile("MiB"))
        expect(panel.get_by_role("meter", name=f"CPU of {title}")).to_have_attribute("aria-valuetext", re.compile(r"\d+ %"))
    visitor.button("Stop container").click()
    visitor.phase("container", "stopped")
    visitor.phase("microVM, cold", "running")
    expect(visitor.panel("container").locator(".timeline li").last).to_contain_text("stopped")
    visitor.button("Stop all").click()
    visitor.phase("microVM, cold", "stopped")
    expect(visitor.button("Stop all")).to_have_attribute("aria-disabled", "true")


def race_runs_all_that_are_chosen(visitor):
    page = visitor.open()
    page.get_by_role("checkbox", name="microVM, warm").uncheck()
    visitor.button("Race all").click()
    lanes = page.get_by_role("list", name="Time to the first byte of output").get_by_role("listitem")
    for index, title in enumerate(TITLES):
        if title == "microVM, warm":
            continue
        visitor.phase(title, "running")
        expect(lanes.nth(index).locator(".at")).to_have_text(re.compile(r"^[\d.]+ (ms|s)$"))
    visitor.phase("microVM, warm", "not started")
    widths = [lanes.nth(index).locator(".fill").evaluate("bar => bar.offsetWidth") for index in range(4)]
    assert 0 < widths[0] < widths[1] < widths[3], widths
    assert widths[2] == 0, widths
    for box in page.get_by_role("checkbox").all():
        box.uncheck()
    visitor.button("Race all").click()
    expect(page.locator("#announcer")).to_contain_text("choose at least one")


def workload_is_measured_again(visitor):
    page = visitor.open()
    cells = page.locator("tbody[data-workload=cpu] td")
    expect(cells.nth(0)).to_contain_text("0 µs")
    visitor.button("Run again: cpu").click()
    expect(cells.nth(0)).to_contain_text("1.00 ms")
    expect(cells.nth(1)).to_contain_text("4.00 ms")
    expect(cells.nth(3)).to_have_text("failed: no disk for it")
    expect(page.locator("#progress")).to_have_text("cpu: measured again")
    expect(page.locator("tbody[data-workload=start] td").nth(0)).to_contain_text("0 µs")
    visitor.button("Run again: cpu").click()
    expect(cells.nth(0)).to_contain_text("2.00 ms")
    visitor.button("Run again: disk").click()
    expect(page.locator("#progress")).to_have_text("disk: failed: this disk is <b>not</b> there")


FOCUS = """() => {
  const one = document.activeElement;
  if (!one || one === document.body) return null;
  const style = getComputedStyle(one);
  const box = one.getBoundingClientRect();
  window.visited ??= [];
  const known = window.visited.indexOf(one);
  const last = window.visited.at(-1);
  const forward = !last || Boolean(last.compareDocumentPosition(one) & Node.DOCUMENT_POSITION_FOLLOWING);
  if (known < 0) window.visited.push(one);
  return {
    name: one.getAttribute("aria-label") ?? one.textContent.trim(),
    known, forward,
    outline: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth),
    shown: box.width > 0 && box.height > 0 && box.right > 0 && box.bottom > 0
      && box.top < innerHeight && box.left < innerWidth,
  };
}"""


def tab_to(visitor, name):
    """Presses Tab until something of that name has the focus; looks at each stop."""
    for _ in range(100):
        visitor.page.keyboard.press("Tab")
        stop = visitor.page.evaluate(FOCUS)
        assert stop, f"the focus left the page before {name}"
        assert stop["outline"] >= 2, f"nobody sees the focus on {stop}"
        assert stop["shown"] and stop["forward"], stop
        if stop["name"] == name:
            return
    raise AssertionError(f"no way to {name}")


def keyboard_is_enough(visitor):
    page = visitor.open()
    tab_to(visitor, "Skip to the instances")
    tab_to(visitor, "Start microVM, cold")
    page.keyboard.press("Enter")
    visitor.phase("microVM, cold", "running")
    expect(visitor.console("microVM, cold")).to_contain_text("hello")
    expect(visitor.button("Start microVM, cold")).to_be_focused()
    tab_to(visitor, "Stop microVM, cold")
    page.keyboard.press("Space")
    visitor.phase("microVM, cold", "stopped")
    # What can't be used any more keeps the focus, and does nothing.
    expect(visitor.button("Stop microVM, cold")).to_be_focused()
    page.keyboard.press("Enter")
    visitor.phase("microVM, cold", "stopped")
    # On to the end, without a trap, and everything was visited.
    stops = 0
    while page.evaluate(FOCUS) and stops < 100:
        page.keyboard.press("Tab")
        stops += 1
        stop = page.evaluate(FOCUS)
        if stop and stop["known"] == 0:
            break
    assert stops < 100, "the keyboard is trapped"
    missed = page.evaluate("""() => [...document.querySelectorAll("a[href], button, input, select, [tabindex='0']")]
        .filter((one) => one.checkVisibility() && !window.visited.includes(one)).map((one) => one.outerHTML)""")
    assert not missed, missed
    page.reload()
    expect(page.locator("#connection")).to_have_text("Connected")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    # The reload asks without the token at first.
    visitor.excuse("403")


def page_without_its_token_is_refused(visitor):
    for address in (f"{visitor.origin}/", f"{visitor.origin}/?token={'0' * 64}", f"{visitor.origin}/?token="):
        page = visitor.window()
        answer = page.goto(address)
        assert answer.status == 403, answer.status
        expect(page.get_by_role("heading", name="Refused")).to_be_visible()
        expect(page.get_by_role("button")).to_have_count(0)
        assert page.evaluate("sessionStorage.length") == 0
    # The token of this page is of no use to a server that has another one, and is forgotten.
    page = visitor.open()
    page.goto(f"{visitor.origin}/?token={'0' * 64}")
    expect(page.get_by_role("heading", name="Refused")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    # The browser's own words on the status 403.
    visitor.excuse("403")


def reload_keeps_everything(visitor):
    page = visitor.open()
    assert page.url == f"{visitor.origin}/", page.url
    visitor.button("Start container").click()
    expect(visitor.console("container")).to_contain_text("hello from the container")
    visitor.button("Run again: cpu").click()
    cell = page.locator("tbody[data-workload=cpu] td").nth(0)
    expect(cell).to_contain_text("1.00 ms")
    page.reload()
    visitor.phase("container", "running")
    expect(visitor.console("container")).to_have_text("hello from the container\n")
    expect(cell).to_contain_text("1.00 ms")
    assert page.url.startswith(f"{visitor.origin}/") and "token" not in page.url, page.url
    visitor.button("Stop container").click()
    visitor.phase("container", "stopped")
    # What another page does shows here, too.
    other = visitor.open(visitor.window())
    visitor.button("Start full VM", other).click()
    visitor.phase("full VM", "running")
    # The reload asks without the token at first.
    visitor.excuse("403")


def broken_connection_is_taken_up_again(visitor):
    page = visitor.page
    asked = []

    def break_off(route):
        asked.append(route.request.headers.get("last-event-id"))
        if len(asked) == 1:
            route.fulfill(status=200, body="", content_type="text/event-stream")
        elif len(asked) == 2:
            route.abort()
        elif len(asked) == 3:
            # All that there is, and the end.
            state = page.request.get(
                f"{visitor.origin}/api/state", headers={"authorization": f"Bearer {visitor.token}"}
            ).text()
            body = f"id: 0\nevent: state\ndata: {state}\n\n"
            route.fulfill(status=200, body=body, content_type="text/event-stream")
        else:
            route.continue_()

    page.route("**/api/events", break_off)
    page.goto(visitor.url)
    expect(page.locator("#connection")).to_have_text("Connection lost: trying again")
    visitor.button("Start container").click()
    expect(visitor.console("container")).to_have_text("hello from the container\n")
    expect(page.locator("#connection")).to_have_text("Connected")
    assert asked == [None, None, None, "0"], asked
    visitor.excuse("ERR_FAILED")


def other_page_can_neither_frame_nor_use_it(visitor):
    visitor.open()
    page = visitor.window()
    page.route("http://other.test/", lambda route: route.fulfill(
        status=200, content_type="text/html", body=f'<title>other</title><iframe src="{visitor.url}"></iframe>'))
    page.goto("http://other.test/")
    page.wait_for_load_state("load")
    assert all(not frame.url.startswith(visitor.origin) for frame in page.frames), page.frames
    outcomes = page.evaluate("""async ([origin, token]) => {
        const tries = [
            { method: "POST", mode: "no-cors", body: "{}" },
            { method: "POST", headers: { "content-type": "application/json", authorization: "Bearer " + token }, body: '{"way": "container"}' },
        ];
        return Promise.all(tries.map((one) => fetch(origin + "/api/instances", one).then((answer) => answer.type, () => "refused")));
    }""", [visitor.origin, visitor.token])
    assert outcomes[1] == "refused" and outcomes[0] in ("refused", "opaque"), outcomes
    visitor.phase("container", "not started")
    assert '"instances":[]' in visitor.page.request.get(
        f"{visitor.origin}/api/state", headers={"authorization": f"Bearer {visitor.token}"}).text()
    # The browser complains of the other page.
    visitor.complaints.clear()


def instances_of_a_way_can_be_chosen_from(visitor):
    visitor.open()
    panel = visitor.panel("container")
    choice = panel.get_by_label("Instance")
    visitor.button("Start container").click()
    visitor.phase("container", "running")
    expect(choice).to_be_hidden()
    visitor.button("Stop container").click()
    visitor.phase("container", "stopped")
    visitor.button("Start container").click()
    visitor.phase("container", "running")
    expect(choice).to_be_visible()
    expect(choice.locator("option")).to_have_text(["No. 1", "No. 2"])
    choice.select_option(label="No. 1")
    visitor.phase("container", "stopped, and 1 more")
    expect(visitor.button("Stop container")).to_have_attribute("aria-disabled", "true")
    expect(visitor.console("container")).to_contain_text("hello from the container")
    choice.select_option(label="No. 2")
    visitor.phase("container", "running")
    visitor.button("Start container").click()
    expect(choice).to_have_value(re.compile("container-3$"))
    visitor.phase("container", "running, and 1 more")


def motion_is_reduced_when_asked(visitor):
    duration = "() => getComputedStyle(document.querySelector('.panel .fill')).transitionDuration"
    calm = visitor.open(visitor.window(reduced_motion="reduce"))
    assert calm.evaluate(duration) == "0s"
    assert visitor.open().evaluate(duration) == "0.2s"
    # Between its events, nothing on the calm page moves.
    calm.evaluate("""() => {
        window.frames = 0;
        const real = requestAnimationFrame;
        window.requestAnimationFrame = (work) => { window.frames += 1; return real(work); };
    }""")
    visitor.button("Start full VM", calm).click()
    visitor.phase("full VM", "running", calm)
    expect(visitor.console("full VM", calm)).to_contain_text("hello")
    # Half a second of animation alone would be thirty.
    assert calm.evaluate("window.frames") < 30, calm.evaluate("window.frames")


CONTRAST = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const color = channels(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const poor = [];
  let count = 0;
  for (const one of document.querySelectorAll("body, body *")) {
    const text = [...one.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
    if (!text || !one.checkVisibility() || ["SCRIPT", "NOSCRIPT", "STYLE"].includes(one.tagName)) continue;
    const [front, back] = [light(channels(getComputedStyle(one).color)), light(behind(one))];
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    count += 1;
    if (ratio < 4.5) poor.push([text.slice(0, 40), ratio]);
  }
  return { count, poor };
}"""


def everything_has_a_name_and_contrast(visitor):
    for scheme in ("light", "dark"):
        page = visitor.open(visitor.window(color_scheme=scheme))
        visitor.button("Race all", page).click()
        for title in TITLES:
            expect(visitor.console(title, page)).to_contain_text("hello")
        visitor.button("Run again: disk", page).click()
        expect(page.locator("#progress")).to_contain_text("failed")
        contrast = page.evaluate(CONTRAST)
        assert contrast["count"] > 60 and not contrast["poor"], contrast
        tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        named = {}
        for node in tree:
            if node.get("ignored"):
                continue
            role = node["role"]["value"]
            if role in ("button", "checkbox", "combobox", "link", "log", "meter", "article", "heading", "RootWebArea"):
                name = node.get("name", {}).get("value", "").strip()
                assert name, f"a {role} without a name: {node}"
                named.setdefault(role, []).append(name)
        buttons = named["button"]
        assert len(buttons) == len(set(buttons)) == 13, buttons
        assert len(named["meter"]) == 8 and len(named["log"]) == 4, named
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((one) => Number(one.tagName[1]))")
        assert levels[0] == 1 and levels.count(1) == 1, levels
        assert all(after <= before + 1 for before, after in zip(levels, levels[1:])), levels
        twice = page.evaluate("""() => { const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
            return ids.filter((id, at) => ids.indexOf(id) !== at); }""")
        assert not twice, twice
        assert page.evaluate("document.documentElement.lang") == "en"
        for box in page.locator("button, select, input").all():
            size = box.bounding_box()
            assert size is None or (size["height"] >= 17 and size["width"] >= 17), size
        live = page.locator("[role=status]")
        assert all(one.get_attribute("aria-live") in (None, "polite") for one in live.all())
        visitor.button("Stop all", page).click()


def page_fits_wide_and_narrow_windows(visitor):
    for width, columns in ((1280, 4), (390, 1), (320, 1)):
        page = visitor.open(visitor.window(viewport={"width": width, "height": 844}))
        visitor.button("Race all", page).click()
        for title in TITLES:
            expect(visitor.console(title, page)).to_contain_text("hello")
        over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert over <= 0, f"{over} pixels too wide at {width}"
        tops = {box["y"] for box in (panel.bounding_box() for panel in page.locator(".panel").all())}
        assert len(tops) == 4 // columns, (width, tops)
        cut = page.evaluate("""() => [...document.querySelectorAll("button, h1, h2, h3, .at, output")].filter((one) => {
            const box = one.getBoundingClientRect();
            return one.checkVisibility() && !one.closest(".scroll") && (box.right > innerWidth || box.left < 0 || one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0);
        }).map((one) => one.textContent)""")
        assert not cut, cut
        visitor.button("Stop all", page).click()


TERMINAL = """(pieces) => {
  const terminal = new Terminal(document.createElement("pre"));
  for (const piece of pieces) terminal.write(Uint8Array.from(piece));
  return [terminal.element.textContent, terminal.element.childNodes.length, terminal.element.children.length];
}"""


def console_knows_a_little_of_a_terminals_language(visitor):
    page = visitor.open()
    for pieces, expected in [
        (["one\r\ntwo"], "one\ntwo"),
        (["10 %\r20 %\r\n"], "20 %\n"),
        (["abc\b\bX"], "aXc"),
        (["a\tb"], "a       b"),
        (["\x1b[1;32mgreen\x1b[0m plain"], "green plain"),
        (["\x1b", "[3", "1mred"], "red"),
        (["\x1b]0;title\x07text\x1b]8;;http://x\x1b\\link"], "textlink"),
        (["\x1bPdevice\x1b\\\x1b_app\x1b\\ok"], "ok"),
        (["long line\r\x1b[Kshort"], "short"),
        (["\x1b[2J\x1b[H\x1b[?25lcleared"], "cleared"),
        (["\x1b(B\x1b=\x1b>text"], "text"),
        (["\x00\x07\x7f\x9b1mbell"], "1mbell"),
        (["\u202egnp.exe\u2066 \u200f"], "gnp.exe "),
        (["<b>bold</b>&amp;"], "<b>bold</b>&amp;"),
        (["\x1b[999999999C!"], "\n!"),
        (["\x1b[" + "9" * 300 + "m."], "9" * 44 + "m."),
    ]:
        text, _, elements = page.evaluate(TERMINAL, [list(piece.encode()) for piece in pieces])
        assert text == expected, (pieces, text)
        assert elements == 0
    # A character in two pieces, and bytes that are none.
    assert page.evaluate(TERMINAL, [[0xC3], [0xA4, 0xFF]])[0] == "ä\ufffd"
    # Bounded in lines and columns.
    text, lines, _ = page.evaluate(TERMINAL, [list(b"x\n" * 5000)])
    assert lines <= 2000 and text.endswith("x\n"), lines
    text, lines, _ = page.evaluate(TERMINAL, [list(b"y" * 5000)])
    assert lines == 5 and max(map(len, text.split("\n"))) == 1000, lines


def instance_that_ends_says_how(visitor):
    page = visitor.open()
    visitor.button("Start container").click()
    visitor.phase("container", "ended with exit code 42")
    expect(visitor.console("container")).to_contain_text("bye")
    visitor.button("Start microVM, cold").click()
    visitor.phase("microVM, cold", "failed: no /dev/kvm")
    expect(page.locator("#announcer")).to_have_text("microVM, cold: failed: no /dev/kvm")


def hostile_text_stays_text(visitor):
    page = visitor.open()
    payload = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"
    visitor.button("Start container").click()
    visitor.button("Start microVM, cold").click()
    expect(visitor.console("container")).to_have_text(f"{payload}\nred\n")
    expect(visitor.panel("container").locator(".timeline .name").first).to_have_text(payload)
    visitor.phase("microVM, cold", f"failed: {payload}")
    expect(page.locator("#image")).to_have_text(payload)
    expect(page.locator("tbody[data-workload=cpu] th[scope=row]")).to_have_text(payload + payload)
    page.reload()
    expect(visitor.console("container")).to_have_text(f"{payload}\nred\n")
    assert page.evaluate("window.pwned") is None
    assert page.locator("img").count() == 0 and page.locator("script").count() == 1
    assert page.evaluate("document.title") == "vmctl compare, live"
    # Even the page's own script couldn't, if it tried.
    try:
        page.evaluate("(html) => { document.body.innerHTML = html; }", payload)
        raise AssertionError("markup was accepted")
    except Error as error:
        assert "TrustedHTML" in str(error), error
    visitor.excuse("403", "TrustedHTML", "Trusted Type")


def flood_leaves_the_page_usable(visitor):
    page = visitor.open()
    visitor.button("Start container").click()
    expect(visitor.console("container")).to_contain_text("came too fast to be shown")
    page.evaluate("""() => new Promise((resolve) => {
        const pre = document.querySelector("pre");
        const look = () => { if (pre.childNodes.length >= 2000) resolve(); };
        new MutationObserver(look).observe(pre, { childList: true });
        look();
    })""")
    visitor.button("Stop container").click()
    visitor.phase("container", "stopped")
    assert page.evaluate("document.querySelector('pre').childNodes.length") <= 2000
    expect(page.locator("#connection")).to_have_text("Connected")


def main():
    scenario, url, screenshot = sys.argv[1:]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        expect.set_options(timeout=PATIENCE_MS)
        visitor = Visitor(browser, url)
        try:
            globals()[scenario](visitor)
            assert not visitor.complaints, visitor.complaints
        except BaseException:
            visitor.page.screenshot(path=screenshot, full_page=True)
            print(visitor.complaints, file=sys.stderr)
            raise
        finally:
            browser.close()


if __name__ == "__main__":
    main()

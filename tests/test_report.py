"""The report is one well-formed page that fetches and executes nothing, and shows what was found."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrapot.validation.metrics import Figure, Metric, Outcome, Series, skipped
from hydrapot.validation.report import page, write_report
from hydrapot.validation.report.markup import Markup, join, tag, text
from hydrapot.validation.report.numbers import number
from hydrapot.validation.report.page import MAX_FIGURE_BYTES
from hydrapot.validation.report.plot import figure
from hydrapot.validation.report.tables import metrics_tables
from tests.results_helpers import make_document, sound_outcomes

HOSTILE = '<script>alert("x")</script>&\'\x00\x1b[31m'
ANY = st.floats(allow_nan=True, allow_infinity=True)


def parsed(html):
    """The page as XML, which it also is: any tag that is not closed or character not escaped raises."""
    return ET.fromstring(html.removeprefix("<!DOCTYPE html>\n"))  # noqa: S314 - of our own making


def spoiled():
    """Every verdict, hostile text in every place that a domain file, a path or a potential can reach."""
    outcomes = sound_outcomes()
    bad = Metric(HOSTILE, HOSTILE, 7.0, HOSTILE, upper=1.0, detail=HOSTILE, level_of_theory=HOSTILE)
    figure_of = Figure(HOSTILE, HOSTILE, HOSTILE, [Series(HOSTILE, [0, 1], [1, math.inf])], x_ticks=[(0.0, HOSTILE)])
    outcomes["walls"] = Outcome([bad, skipped(HOSTILE, HOSTILE, HOSTILE)], [figure_of], [HOSTILE])
    outcomes["nve"] = Outcome([Metric("slope", "MgO", 0.9, "meV", upper=1.0, interval=(0.5, 1.5))])
    outcomes["uncertainty"] = HOSTILE
    return outcomes


@pytest.fixture(scope="module")
def html():
    return page(make_document(spoiled(), name=HOSTILE))


def test_the_page_is_well_formed_and_everything_in_it_is_escaped(html):
    root = parsed(html)
    assert "<script" not in html.lower()
    assert "\x00" not in html
    assert "\x1b" not in html
    assert 'alert("x")' in "".join(root.itertext())


def test_the_page_fetches_nothing_and_executes_nothing(html):
    root = parsed(html)
    forbidden = {"script", "link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "source"}
    assert not forbidden & {element.tag for element in root.iter()}
    names = {name for element in root.iter() for name in element.attrib}
    assert not {"src", "srcset", "action", "data", "background", "poster"} & names
    assert not [name for name in names if name.startswith("on")]
    targets = [element.attrib["href"] for element in root.iter() if "href" in element.attrib]
    assert targets
    assert all(target.startswith("#") for target in targets)
    assert not re.search(r"https?:|url\(|@import|@font-face", html)
    policy = next(e.attrib["content"] for e in root.iter("meta") if "http-equiv" in e.attrib)
    assert "default-src 'none'" in policy


def test_links_lead_to_places_in_the_page_and_places_are_unique(html):
    root = parsed(html)
    identifiers = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(set(identifiers)) == len(identifiers)
    assert {element.attrib["href"][1:] for element in root.iter("a")} <= set(identifiers)


def test_every_plot_and_every_answer_reads_without_colours(html):
    root = parsed(html)
    plots = [svg for svg in root.iter("svg") if svg.attrib.get("role") == "img"]
    assert len(plots) >= len(sound_outcomes()) - 2
    assert all(len(svg.attrib["aria-label"]) > 20 for svg in plots)
    for row in next(t for t in root.iter("table") if t.attrib["class"] == "matrix").iter("td"):
        words = "".join(row.itertext())
        assert any(word in words for word in ("yes", "no", "unclear", "not shown", "sound only"))
    for word in ("FAIL", "PASS", "INCONCLUSIVE", "N-A"):
        assert any(
            e.attrib.get("class") == f"verdict {word}" and word in "".join(e.itertext()) for e in root.iter("span")
        )


def test_verdict_subject_and_reasons_stand_in_the_page(html):
    words = "".join(parsed(html).itertext())
    for expected in ("head pbe", "PBE (VASP)", "ab" * 32, "oxides", "Molecular dynamics, NPT", "straddles its limit"):
        assert expected in words


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.wrong = [], []

    def handle_starttag(self, tag, attrs):  # noqa: ARG002 - the parser's signature
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_a_parser_of_html_sees_the_same_nesting(html):
    reader = _Tags()
    reader.feed(html)
    assert reader.wrong == reader.open == []


@given(st.text(), st.text())
def test_text_is_escaped_whatever_it_is(a, b):
    root = parsed(tag("p", a, join(text(b), tag("b", a)), title=b))
    assert root.find("b") is not None
    assert len(list(root)) == 1
    assert text(Markup("<b>")) == "<b>"


FIGURES = st.builds(
    Figure,
    st.text(max_size=5),
    st.text(max_size=60),
    st.text(max_size=60),
    st.lists(
        st.integers(0, 5).flatmap(
            lambda n: st.builds(
                Series,
                st.text(max_size=4),
                st.lists(ANY, min_size=n, max_size=n),
                st.lists(ANY, min_size=n, max_size=n),
                st.sampled_from(["line", "points", "reference", "limit"]),
                st.none() | st.lists(ANY, min_size=n, max_size=n),
            )
        ),
        max_size=4,
    ),
    st.booleans(),
    st.booleans(),
    st.none() | st.lists(st.tuples(ANY, st.text(max_size=20)), max_size=3),
)


@settings(max_examples=100, deadline=None)
@given(FIGURES)
def test_any_figure_can_be_drawn_and_holds_only_finite_coordinates(drawn):
    root = parsed(figure(drawn))
    for path in root.iter("path"):
        assert not re.search("nan|inf", path.attrib["d"])
    for element in root.iter():
        for name in ("x", "y", "x1", "x2", "y1", "y2"):
            assert math.isfinite(float(element.attrib.get(name, 0)))


def test_points_are_where_their_values_are():
    drawn = Figure("t", "x", "y", [Series("a", [0.0, 5.0, 10.0], [1.0, 10.0, 100.0])], y_log=True)
    line = next(p for p in parsed(figure(drawn)).iter("path") if "curve" in p.attrib["class"])
    points = [tuple(map(float, p.split())) for p in re.split("[ML]", line.attrib["d"])[1:]]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.11)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.11)  # decades are equal, and up is up
    assert y0 > y2


def test_a_spike_survives_thinning():
    y = [0.0] * 20001
    y[12345] = 1.0
    drawn = Figure("t", "x", "y", [Series("a", list(range(20001)), y)])
    path = next(p for p in parsed(figure(drawn)).iter("path") if "curve" in p.attrib["class"]).attrib["d"]
    heights = [float(p.split()[1]) for p in re.split("[ML]", path)[1:]]
    assert len(heights) < 2000
    assert sum(h < min(heights) + 0.5 for h in heights) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "–"), (0.0, "0"), (0.0123, "0.0123"), (1.002, "1.002"), (123456.0, "123456"), (1.2e-7, "1.2×10⁻⁷"),
     (-4.2e-4, "−4.2×10⁻⁴"), (1e10, "1×10¹⁰"), (math.nan, "not a number"), (-math.inf, "−∞"), (9.9999, "10")],
)  # fmt: skip
def test_numbers_are_written_for_readers(value, expected):
    assert number(value) == expected


def test_failures_stand_open_and_long_tables_are_folded():
    metrics = [Metric("residual", f"pair {k}", float(k == 77) + 0.5, "eV", upper=1.0) for k in range(1000)]
    shown, _, folded = metrics_tables(metrics).partition("<details>")
    assert "pair 77" in shown
    assert "FAIL" in shown
    assert "FAIL" not in folded
    assert "further rows" in folded  # and it says what it leaves out


def test_the_page_stays_below_three_megabytes(tmp_path):
    outcomes = sound_outcomes()
    points = [0.001 * k for k in range(3000)]
    cloud = Figure("cloud", "x", "y", [Series("a", points, [math.sin(k) for k in points], "points")])
    for name in outcomes:
        metrics = [replace(outcomes[name].metrics[0], subject=f"pair {k}", detail="x" * 80) for k in range(500)]
        outcomes[name] = Outcome([*outcomes[name].metrics, *metrics], [cloud] * 12)
    write_report(make_document(outcomes), tmp_path / "report.html")
    size = (tmp_path / "report.html").stat().st_size
    assert size > MAX_FIGURE_BYTES / 2
    assert size < 3_000_000
    assert "figures are left out" in (tmp_path / "report.html").read_text(encoding="utf-8")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_the_page_without_complaint(tmp_path, html, width):
    """Nothing on the console, all plots have a size, and nothing sticks out of a phone."""
    probe = """<script>addEventListener("load", () => {
      const plots = [...document.querySelectorAll("figure svg[role=img]")].map(s => s.getBoundingClientRect());
      const out = {wide: document.documentElement.scrollWidth, seen: innerWidth,
        plots: plots.length, empty: plots.filter(r => r.width < 200 || r.height < 100).length,
        fetched: performance.getEntriesByType("resource").length};
      document.body.innerHTML = ""; document.body.textContent = JSON.stringify(out);
    });</script></body>"""
    # The page's own policy forbids scripts; the probe, not the page, lifts it.
    page_file = tmp_path / "report.html"
    measured = tmp_path / "measured.html"
    page_file.write_text(html, encoding="utf-8")
    lifted = re.sub("<meta http-equiv[^>]*>", "", html).replace("</body>", probe)
    measured.write_text(lifted, encoding="utf-8")

    def browser(*arguments):
        return subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
             f"--window-size={width},2000", "--enable-logging=stderr", "--v=0", *arguments],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip

    loaded = browser(f"--screenshot={tmp_path / 'page.png'}", page_file.as_uri())
    assert "CONSOLE" not in loaded.stderr
    assert (tmp_path / "page.png").stat().st_size > 20_000
    dumped = browser("--dump-dom", measured.as_uri())
    assert "CONSOLE" not in dumped.stderr
    found = json.loads(re.search(r"\{.*\}", re.search(r"<body>(.*)</body>", dumped.stdout, re.DOTALL)[1])[0])
    assert found["plots"] == html.count("<figure>")
    assert found["empty"] == found["fetched"] == 0
    assert found["wide"] <= found["seen"]

"""The text of a report: tables, ranks and histograms, with every name escaped."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from occvae.visualize.report import write_report
from occvae.visualize.report.charts import curves, histogram
from occvae.visualize.report.metric_names import higher_is_better, label
from occvae.visualize.report.tables import evaluation_tables
from tests.visualize.report.builders import HOSTILE, box, case, evaluation, sphere


class Structure(HTMLParser):
    """A parsed page: tables as lists of rows, headings, and all tags with their attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.tables, self.headings, self.tags, self._into = [], [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._into = lambda text: self._append(self.tables[-1][-1], text)
        elif re.fullmatch("h[1-6]", tag):
            self.headings.append("")
            self._into = lambda text: self._append(self.headings, text)

    def handle_endtag(self, tag):
        if tag in ("td", "th") or re.fullmatch("h[1-6]", tag):
            self._into = None

    def handle_data(self, data):
        if self._into:
            self._into(data)

    @staticmethod
    def _append(texts, text):
        texts[-1] += text


def write(tmp_path, *arguments) -> str:
    path = tmp_path / "new" / "report.html"
    write_report(path, *arguments)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    return path.read_text("utf-8")


def test_metrics_controls_and_shapes_become_tables(tmp_path):
    page = Structure(write(tmp_path, evaluation({"a": 0.5, "b": 0.75}), []))
    metrics, thresholds, controls = page.tables[0], page.tables[2], page.tables[1]
    assert metrics == [
        ["", "IoU"],
        ["mean of categories (macro)", "0.2500 [0.2031, 0.3027]"],
        ["mean of shapes (micro)", "0.6250"],
        [HOSTILE, "0.1250"],
    ]
    assert [row[1] for row in controls] == ["Mean shape", "0.1000", "0.2000", "0.0625"]
    assert any("IoU of voxels" in heading for heading in page.headings)  # explains the controls
    assert thresholds == [["", "IoU"], ["0.2", "0.4375"], ["0.5", "0.4000"]]
    assert page.tables[3] == [
        ["shape", "category", "IoU"],
        ["a", "box", "0.5000"],
        ["b", "box", "0.7500"],
    ]


def test_nested_protocols_and_records_become_tables():
    table = {"per_category": {"chair": {"mean": 0.5, "interval": [0.4, 0.6], "count": 3}}}
    table |= {"macro": 0.5, "micro": 0.25}
    tree = {"onet": {"chamfer_l1_tenth_edge": table, "note": "text"}, "rows": [{"a": 1}, {"b": 2}]}
    page = Structure(evaluation_tables(tree))
    assert page.headings == ["ONet", "Rows"]
    assert [page.tables[0][row] for row in (0, 3)] == [
        ["", "Chamfer L1 (edge/10)"],
        ["chair", "0.5000"],
    ]
    assert page.tables[1] == [["A", "B"], ["1", "–"], ["–", "2"]]


def test_most_of_many_metrics_are_shown_on_demand():
    names = ["iou_points", "iou_voxels", "accuracy_edge", "chamfer_l1_edge", "chamfer_l2_edge2"]
    names += ["normal_consistency", "f_score_1_percent", "f_score_2_percent"]
    metrics = {
        name: {"per_category": {"chair": {"mean": i / 10}}, "macro": 0.5, "micro": 0.25}
        for i, name in enumerate(names)
    }
    html = evaluation_tables({"metrics": metrics, "model": {"arch": "vitocc"}})
    page = Structure(html)
    first, others = page.tables
    assert first[0] == ["", "IoU points", "Chamfer L1 (edge)", "F-score 1 %", "Normal consistency"]
    assert first[3] == ["chair", "0.0000", "0.3000", "0.6000", "0.5000"]
    assert others[1] == ["IoU voxels", "0.5000", "0.2500", "0.1000"] and len(others) == 5
    before = html[: html.index("IoU voxels")]
    assert before.count("<details") == before.count("</details>") + 1
    assert re.search("<details><summary>Model, data and settings.*vitocc", html)


def test_cases_come_before_tables_and_have_a_filter(tmp_path):
    cases = [case("a", 0.5, box()), case("b", 0.25, box(), category="<chair>")]
    html = write(tmp_path, evaluation({"a": 0.5, "b": 0.25}), cases)
    assert html.index('id="cases"') < html.index('id="tables"') < html.index('id="shapes"')
    assert '<option value="&lt;chair&gt;">&lt;chair&gt; (1)</option>' in html
    assert "<select" not in write(tmp_path, evaluation({"a": 0.5}), cases[:1])


def test_cases_are_ranked_and_divided(tmp_path):
    ious = {"low": 0.1, "middle": 0.5, "high": 0.9, "other": 0.7}
    cases = [case(name, ious[name], box()) for name in ("low", "high", "middle")]
    html = write(tmp_path, evaluation(ious), cases)
    headings = Structure(html).headings
    shown = headings[headings.index("Cases") + 1 :]
    assert shown[:6] == ["Best", "high", "Median", "middle", "Worst", "low"]
    assert re.findall(r"rank (\d) of 4", html) == ["1", "3", "4"]


def test_cases_are_grouped_by_the_examples_of_the_evaluation(tmp_path):
    ious = {"low": 0.1, "middle": 0.5, "high": 0.9}
    report = {
        "model": {"arch": "vitocc", "options": {}},
        "data": {"root": "data/x"},
        "examples": {"best": ["high"], "median": [], "worst": ["low"]},
        "shapes": [
            {"number": 77, "id": id, "category": "box", "metrics": {"iou": iou}}
            for id, iou in ious.items()
        ],
    }
    html = write(tmp_path, report, [case(name, iou, box()) for name, iou in ious.items()])
    page = Structure(html)
    at = page.headings.index("Cases")
    assert page.headings[0] == "Evaluation of vitocc on x"
    assert page.headings[at + 1 : at + 7] == ["Best", "high", "Worst", "low", "Others", "middle"]
    assert page.tables[-1][1:] == [[id, "box", f"{iou:.4f}"] for id, iou in ious.items()]
    assert "77" not in re.sub(r"base64,[^\"]*|<script.*", "", html, flags=re.DOTALL)


def test_a_page_holds_the_viewer_only_with_cases_and_with_its_license(tmp_path):
    without = write(tmp_path, evaluation({"a": 0.5}), [])
    html = write(tmp_path, evaluation({"a": 0.5}), [case("a", 0.5, box())])
    assert "WebGLRenderer" in html and "three.js authors" in html
    assert "<script" not in without and len(without) < 30_000


def test_names_of_metrics_tell_direction_and_label():
    assert higher_is_better("f_score_1_percent") and higher_is_better("normal_consistency")
    assert not higher_is_better("chamfer_l1_edge")
    assert label("chamfer_l2_edge2") == "Chamfer L2 (edge²)"
    assert label("f_score_1.5_percent") == "F-score 1.5 %"
    assert label("iou_points_0.2") == "IoU points at threshold 0.2"
    assert label("f_score_0.02_half_edge") == "F-score 0.02 (edge/2)" and label("0.2") == "0.2"


def test_names_are_escaped(tmp_path):
    cases = [case(HOSTILE, 0.5, sphere(), np.full(162, 0.01), category=HOSTILE)]
    report = evaluation({HOSTILE: 0.5}) | {"model": HOSTILE, HOSTILE: HOSTILE}
    html = write(tmp_path, report, cases)
    assert "<b>" not in html and '<img src="http' not in html
    page = Structure(html)
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name == "style"]
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert images and all(source.startswith("data:image/png;base64,") for source in images)
    assert HOSTILE in page.headings


def test_the_page_refers_to_nothing_outside(tmp_path):
    html = write(tmp_path, evaluation({"a": 0.5}), [case("a", 0.5, box())])
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", html)
    assert "default-src 'none'" in html and "connect-src" not in html
    assert "fetch(" not in html and "XMLHttpRequest" not in html


def test_a_histogram_shows_its_median_and_counts():
    html = histogram("iou", [0.0, 0.0, 0.2, 1.0, float("nan")])
    assert "median 0.1 of 4 shapes" in html
    assert re.findall(r"(\d+) shapes</title>", html) == ["2", "1", "1"]
    assert histogram("iou", []) == "" and "of 2 shapes" in histogram("iou", [0.3, 0.3])


def test_values_that_differ_only_by_rounding_have_a_histogram():
    for value in (0.15, 1.0, 1e-12, -3e20):
        values = [value, np.nextafter(value, 2 * value), value]
        chart = histogram("f_score_1_percent", values)
        assert "3 shapes" in chart and "nan" not in chart, value
        assert histogram("loss", [value] * 3) and curves("loss", {"train": ([1, 2, 3], values)})


def test_long_curves_are_thinned_but_show_the_last_value():
    steps = np.arange(10_000)
    html = curves("loss", {"train": (steps, 1.0 / (1 + steps)), HOSTILE: ([5], [0.5])})
    points = re.search(r'points="([^"]*)"', html).group(1).split()
    assert len(points) == 300 and "<b>" not in html
    assert "train</span> 0.0001" in html


def test_the_page_says_which_meshes_are_missing(tmp_path):
    nothing = (np.zeros((0, 3)), np.zeros((0, 3), int))
    html = write(tmp_path, {}, [case("a", 0.0, nothing, np.zeros(0)), case("b", 0.0, None)])
    assert html.count("the prediction is empty") == 2
    assert html.count("<canvas tabindex") == html.count('<img class="picture"') == 2


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((4, 4), np.uint8), None, r"a: image must be \(H, W, 3\) uint8"),
        (np.zeros((4, 4, 3)), None, r"a: image must be \(H, W, 3\) uint8, got float64"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros(3), "a: error must have one distance per vertex"),
    ],
)
def test_wrong_cases_are_errors(tmp_path, image, error, message):
    wrong = case("a", 0.5, box(), error)
    object.__setattr__(wrong, "image", image)
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "r.html", {}, [wrong])

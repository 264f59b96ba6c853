"""What the site says, as far as it can be checked without building it: `make docs` builds it, and runs its examples."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import api_pages
import capabilities
import gallery_links
import losses
import pytest
from gallery_order import ORDER, place
from test_docs import PAGES, ROOT, module_names, python_blocks
from visit_site import Visit

import tabmtl
from benchmarks.evidence_compare import flatten
from benchmarks.evidence_models import CATBOOST, ENSEMBLE, LIGHTGBM

GALLERY = ROOT / "docs" / "gallery"
#: A link that is no address of the web; the target may have a title.
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.M)
FENCED = re.compile(r"^(`{3,}).*?^\1", re.M | re.S)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Pages of the API reference, by file."""
    folder = tmp_path_factory.mktemp("reference")
    api_pages.write_pages(folder / "api")
    return {file.stem: file.read_text() for file in (folder / "api").glob("*.rst")}


def test_every_public_name_is_in_the_reference(reference):
    names = set(re.findall(r"^(?:   |\.\. py:data:: )(\w+)$", "".join(reference.values()), re.M))
    for module in map(import_module, module_names()):
        missing = set(getattr(module, "__all__", ())) - names
        assert not missing, f"{module.__name__}: {missing}"


def test_a_name_stands_at_one_door_in_the_group_of_its_room(reference):
    assert {page for page, *_ in (*api_pages.PLACES, api_pages.AUTHORS)} | {"index"} == reference.keys()
    groups = {"MMoE": "estimators", "distill": "ensembles", "joined": "serving", "Kind": "authors"}
    for name, page in groups.items():
        assert [each for each, text in reference.items() if f"   {name}\n" in text] == [page]
    with pytest.raises(ValueError, match="the room 'new' has no group; add it to PLACES"):
        api_pages.place_of("tabmtl.new", None)


def test_the_index_has_what_users_call(reference):
    shown = set(re.findall(r"^   ~([\w.]+)$", reference["index"], re.M))
    assert {"tabmtl.MMoE", "tabmtl.compare", "tabmtl.sessions.M2TRec", "tabmtl.testing.multitask_checks"} <= shown
    inside = tuple(f"{package}." for package in api_pages.FOR_AUTHORS)
    assert not any(name.startswith(inside) or name.endswith("Classifier") for name in shown)


def test_what_pages_teach_to_import_is_in_the_reference(reference):
    for page in PAGES:
        for line, block in python_blocks(page):
            for node in ast.walk(ast.parse(block)):
                is_ours = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tabmtl")
                if is_ours and node.module != "tabmtl.pipelines.cli":  # the command itself
                    names = [alias.name for alias in node.names if alias.name[0] != "_"]
                    missing = [name for name in names if not any(f"   {name}\n" in text for text in reference.values())]
                    assert not missing, f"{page.name}:{line}: {missing}"


def test_pages_that_did_not_change_are_not_written_again(tmp_path):
    api_pages.write_pages(tmp_path)
    (tmp_path / "tabmtl.gone.rst").write_text("of a module that is no more")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.rst") if "gone" not in file.name}
    api_pages.write_pages(tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.rst")} == before
    assert tmp_path / "generated" / "tabmtl.MMoE.rst" in before


def test_the_page_of_a_class_lists_what_the_package_documents():
    page = api_pages.object_page("tabmtl", "MMoE", tabmtl.MMoE)
    assert ".. automethod:: MMoE.score_intervals\n" in page
    assert "get_params" not in page
    assert "_request" not in page
    face = api_pages.object_page("tabmtl", "MMoEClassifier", tabmtl.MMoEClassifier)
    assert "MMoEClassifier.score\n" in face
    assert "MMoEClassifier.fit\n" not in face
    assert "those of :py:obj:`tabmtl.MMoE`" in face


def test_a_signature_that_says_nothing_is_left_out():
    app, nothing = None, "(*args, **kwargs)"
    assert api_pages.leave_out_empty(app, "class", "", None, None, nothing, None) == ("", None)  # type: ignore[arg-type]
    assert api_pages.leave_out_empty(app, "class", "", None, None, "(x)", None) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "escaped"),
    [
        ("sqrt(n |t|)", r"sqrt(n \|t\|)"),
        ("exp(-|a - b| / l)", r"exp(-\|a - b\| / l)"),
        ("``|reference| < 0.01``", "``|reference| < 0.01``"),
        ("int | None, str | None", "int | None, str | None"),
        (">>> a |b| c", ">>> a |b| c"),
    ],
)
def test_absolute_values_are_no_substitutions(line, escaped):
    lines = [line]
    api_pages.escape_bars(None, "class", "", None, None, lines)  # type: ignore[arg-type]
    assert lines == [escaped]


@pytest.mark.parametrize("file", sorted(GALLERY.glob("plot_*.py")), ids=lambda file: file.stem)
def test_an_example_compiles_and_has_a_place_and_a_title(file):
    text = file.read_text()
    compile(text, str(file), "exec")
    title, line, _ = (ast.get_docstring(ast.parse(text)) or "").split("\n", 2)
    assert line == "=" * len(title)
    assert place(str(file)) >= 0


def test_the_gallery_has_what_it_lists():
    assert {file.name for file in GALLERY.glob("plot_*.py")} == set(ORDER)
    assert len(ORDER) >= 12


def anchors(page: Path) -> set[str]:
    """Places of a page, as GitHub and the site name them."""
    titles = HEADING.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_commands_of_pages_are_there():
    for page in PAGES:
        for name in re.findall(r"python -m (benchmarks\.[a-z]\w*(?:\.\w+)*)", page.read_text(encoding="utf-8")):
            assert find_spec(name), f"{page.name}: {name}"


def test_the_design_is_short_and_leaves_experiments_to_the_lab():
    assert len((ROOT / "docs" / "design.md").read_text(encoding="utf-8").split()) <= 6000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_pages_lead_somewhere(page):
    for link in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_links_to_scripts_of_the_gallery_lead_to_their_pages_on_the_site():
    source = ["[a](gallery/plot_start.py), [b](../gallery/plot_shap.py) and [c](guide/trees.md)"]
    gallery_links.link_pages(None, "page", source)
    assert source == ["[a](examples/plot_start), [b](../examples/plot_shap) and [c](guide/trees.md)"]


def test_a_capability_is_tried():
    assert capabilities.outcome_of(capabilities.fit_long_table, tabmtl.SharedTrees) == ""
    assert capabilities.outcome_of(capabilities.fit_long_table, tabmtl.ESMM) != ""
    assert "network" in capabilities.outcome_of(capabilities.has_onnx, tabmtl.SharedTrees)
    with pytest.raises(ZeroDivisionError):
        capabilities.outcome_of(lambda cls: 1 / 0, tabmtl.SharedTrees)


def in_the_readme() -> dict[str, dict[str, str]]:
    """The table of models in README.md: by estimator and column, what it says."""
    table = (ROOT / "README.md").read_text().partition("| estimator |")[2].partition("\n\n")[0]
    header, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {name.strip(" `"): dict(zip(header, cells, strict=True)) for name, *cells in lines}


def export_of(cls: type) -> str:
    """The export of an estimator, in the words of the table."""
    trials = {"ONNX": capabilities.has_onnx, "LightGBM": lambda cls: capabilities.need(cls, "export_task")}
    return next((name for name, trial in trials.items() if not capabilities.outcome_of(trial, cls)), capabilities.NO)


def test_the_readme_is_short_and_names_every_estimator_and_its_export():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    said = in_the_readme()
    assert set(said) == {cls.__name__ for cls in capabilities.tried()}
    for name, row in said.items():
        assert row["export"] == export_of(getattr(tabmtl, name)), name


@pytest.mark.all_faces
def test_the_readme_says_what_was_tried():
    columns = {"long": "long tables", "funnel": "funnels", "files": "files larger than memory"}
    said = in_the_readme()
    for name, row in capabilities.try_all().items():
        for column, case in columns.items():
            assert said[name][column] == (capabilities.NO if row[case] else capabilities.YES), f"{name}: {case}"
        refused = row["more than one machine"]
        assert refused == row["files larger than memory"] or "is for one process" in refused, name
        assert not (row["missing labels"] or row["mixed kinds of targets"] or row["weights"]), name


def test_the_matrix_says_what_was_tried():
    row = dict.fromkeys(capabilities.CASES, "")
    outcomes = {"A": row, "B": row | {"ONNX": "B has none"}, "C": row | {"ONNX": "C has none"}}
    table = capabilities.matrix(outcomes).splitlines()
    assert [line.count(capabilities.NO) for line in table[2:]] == [0, 1, 1]
    assert capabilities.refusals(outcomes) == "- **ONNX**: B, C: ... has none\n"


def test_lost_cases_are_those_beyond_chance():
    def record(model, seed, score, target):
        facts = {"part": "labels", "set": "portal", "target": target, "amount": 50, "seed": seed, "model": model}
        return facts | {"scores": {"AUC": {target: score}}}

    scores = {LIGHTGBM: (0.7, 0.71), CATBOOST: (0.5, 0.5), ENSEMBLE: (0.6, 0.61), "SharedTrees": (0.5, 0.95)}
    records = [
        record(model, seed, score + shift, target)
        for target, shift in (("a", 0.0), ("b", 0.01))
        for model, pair in scores.items()
        for seed, score in enumerate(pair, start=2)
    ]
    page = losses.page(flatten(records))
    lost = [line for line in page.split("lost\n")[1].splitlines() if line.startswith("| portal")]
    assert len(lost) == 2
    assert all(ENSEMBLE in line and "**-0.1000**" in line and LIGHTGBM in line for line in lost)
    assert "| SharedTrees | 2 | 0 | 0 | 2 | 0 |" in page


def test_dead_links_of_the_site_are_found(tmp_path):
    (tmp_path / "a.html").touch()
    visit = Visit(tmp_path, "http://x", places={"a.html": {"here"}})
    links = ("a.html", "a.html#here", "a.html#there", "b.html")
    visit.links = [("a.html", f"http://x/{link}") for link in links]
    assert list(visit.dead_links()) == ["a.html: dead link to a.html#there", "a.html: dead link to b.html"]

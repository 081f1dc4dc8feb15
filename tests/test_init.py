import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import xlsxwriter
from conftest import CHECKOUT, query
from golden import assert_as_kept

from mart_helpers.draft import make_place
from mart_helpers.errors import InputError, UsageError
from mart_helpers.parameters import home

HEADER = (
    "Row;Order ID;Order Date;Customer ID;Customer Name;Product ID;Product Name;Price;Quantity;Discount"
)
FLAT = f"""{HEADER}
1;O1;31.12.2024;007;Café;P1;Pen;1.234,50;2;7,5 %
2;O1;01.02.2024;008;Bar;P2;Pad;2,00;3;0 %
3;O2;02.02.2024;007;Café;P1;Pen;3,00;4;
"""


def cells(place: Path) -> list[str]:
    notebook = json.loads((place / "notebooks" / "01_build.ipynb").read_text("utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"]]


def drafts(place: Path, begin: str) -> list[str]:
    """The drafted cells that create something whose name begins so, without the comment marks."""
    texts = [cell for cell in cells(place) if cell.startswith("# %%sql") and f"create {begin}" in cell]
    return ["\n".join(line.removeprefix("# ") for line in text.splitlines()) for text in texts]


def run_mart(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    environment = {name: text for name, text in os.environ.items() if name != "MART_HOME"}
    return subprocess.run(
        [sys.executable, "-m", "mart", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment | {"PYTHONPATH": str(CHECKOUT)},
        timeout=300,
    )


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    path = tmp_path / "orders.csv"
    path.write_text(FLAT, "utf-8")
    return path


DAYS = ("01.02.2024", "31.12.2023", "never", "05.06.2024", "17.03.2024")
DRAFTED = {
    "orders and their customers": {
        "orders.csv": FLAT,
        "customers.csv": "No,Since\n007,2/1/2024\n008,3/1/2024\n009,\n",
    },
    "days of which one is bad, and a name that SQL reserves": {
        "orders.csv": "Order;Day\n" + "".join(f"{n};{day}\n" for n, day in enumerate(DAYS)),
    },
}


def test_what_is_drafted_is_as_it_was_written_down(tmp_path):
    """In golden/draft.txt, which KEEP=1 writes anew."""
    texts = []
    for number, (words, files) in enumerate(DRAFTED.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8")
        told = make_place(folder / "shop", [folder / name for name in files])
        made = [draft for begin in ("table", "view") for draft in drafts(folder / "shop", f"{begin} ")]
        texts += [f"=== {words}", *told, "", *(f"{draft}\n" for draft in dict.fromkeys(made))]
    assert_as_kept("draft.txt", "\n".join(texts))


def test_a_draft_is_all_comments_and_nothing_is_loaded_by_it(tmp_path, flat):
    make_place(tmp_path / "shop", [flat])
    drafted = [cell for cell in cells(tmp_path / "shop") if "orders" in cell and "Order ID" in cell]
    assert drafted
    assert all(line.startswith("# ") for cell in drafted for line in cell.splitlines())
    assert not (tmp_path / "shop" / "data").exists()


def test_each_sheet_of_a_workbook_is_drafted(tmp_path):
    with xlsxwriter.Workbook(tmp_path / "book.xlsx") as book:
        for name in ("Kunden", "Aufträge"):
            sheet = book.add_worksheet(name)
            sheet.write_row(0, 0, ["Nr", "Wert"])
            sheet.write_row(1, 0, [1, 2.5])
    assert make_place(tmp_path / "shop", [tmp_path / "book.xlsx"]) == [
        "drafted Kunden, 1 row",
        "drafted Aufträge, 1 row",
    ]
    assert len(drafts(tmp_path / "shop", "table contract.auftrage")) == 1


@pytest.mark.parametrize("others", ["", "0300;Süßkirsche;2,00\n"])
def test_a_file_in_another_encoding_is_refused(tmp_path, others):
    path = tmp_path / "artikel.csv"
    path.write_bytes(f"Nr;Name;Preis\n0100;Siebträger;9,50\n0200;Tasse;1,50\n{others}".encode("cp1252"))
    with pytest.raises(
        InputError, match=r"artikel\.csv: is not UTF-8 .* line 2: .* iconv -f WINDOWS-1252"
    ):
        make_place(tmp_path / "shop", [path])
    assert not (tmp_path / "shop").exists()


def test_rows_that_cannot_be_read_are_counted(tmp_path):
    path = tmp_path / "artikel.csv"
    path.write_bytes("Nr;Name\n1;Café\n2;Tee\n".encode() + b"3;Tass\xe9\n")
    assert make_place(tmp_path / "shop", [path]) == [
        "drafted artikel, 3 rows, of which 1 cannot be read"
    ]


def test_tables_are_drafted_below_those_they_refer_to(tmp_path):
    texts = {
        "verkaufe": "Beleg;Kunde;Artikel\nB1;K1;A1\nB2;K1;A2\nB3;K2;A1\n",
        "kunden": "Nr;Gebiet;Bester\nK1;G1;A1\nK2;G1;A2\n",
        "gebiete": "Kürzel;Name\nG1;Nord\nG2;Süd\n",
        "artikel": "Nr;Käufer\nA1;K1\nA2;K2\n",  # refers to what refers to it
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text, "utf-8")
    make_place(tmp_path / "shop", [tmp_path / f"{name}.csv" for name in texts])
    drafted = drafts(tmp_path / "shop", "table contract")
    with duckdb.connect() as connection:
        connection.execute("create schema contract")
        for draft in drafted:
            connection.execute(draft.removeprefix("%%sql"))
    assert sum(draft.count("references") for draft in drafted) == 4


def test_a_file_that_fits_the_contract_needs_no_draft(tmp_path):
    made = make_place(tmp_path / "shop", [CHECKOUT / "inputs" / "dim_product.csv"])
    assert made == ["dim_product already matches the contract"]
    assert not drafts(tmp_path / "shop", "table contract")


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path, flat):
    with pytest.raises(UsageError, match="already exists"):
        make_place(tmp_path, [flat])
    with pytest.raises(UsageError, match=r"missing\.csv: there is no such file"):
        make_place(tmp_path / "shop", [tmp_path / "missing.csv"])
    assert [path.name for path in tmp_path.iterdir()] == ["orders.csv"]


def test_the_notebooks_of_a_place_run_and_those_of_the_checkout_stay(tmp_path, flat):
    before = (CHECKOUT / "notebooks" / "01_build.ipynb").read_bytes()
    assert run_mart("init", "shop", flat, cwd=tmp_path).returncode == 0
    place = tmp_path / "shop"
    path = place / "notebooks" / "01_build.ipynb"
    notebook = json.loads(path.read_text("utf-8"))
    assert (place / "notebooks" / "pictures" / "star_schema.png").is_file()
    mappings = drafts(place, "view mapping.dim_") + drafts(place, "view mapping.fact_sales")
    text = ";\n".join(mapping.removeprefix("%%sql") for mapping in mappings)
    text = text.replace("null as sale_id", '"Row" as sale_id').replace(
        "null as unit_price", "number_from(\"Price\", ',') as unit_price"
    )
    text = text.replace("null as sale_date", "date_from(\"Order Date\", '%d.%m.%Y') as sale_date")
    (draft, *_) = (each for each in notebook["cells"] if "".join(each["source"]).startswith("# %%sql"))
    draft["source"] = f"%%sql\n{text}"
    path.write_text(json.dumps(notebook), "utf-8")
    done = run_mart("build", cwd=place / "inputs")
    assert done.returncode == 0, done.stderr
    found = query(
        place / "data" / "mini_data_mart.duckdb",
        "select table_name, rows_read, rows_loaded, rows_left_out from build_inputs order by all",
    )
    assert found == [("dim_customer", 3, 2, 1), ("dim_product", 3, 2, 1), ("fact_sales", 3, 3, 0)]
    assert (CHECKOUT / "notebooks" / "01_build.ipynb").read_bytes() == before


def test_the_nearest_folder_with_notebooks_is_home(tmp_path, monkeypatch):
    monkeypatch.delenv("MART_HOME", raising=False)
    (tmp_path / "shop" / "notebooks").mkdir(parents=True)
    (tmp_path / "shop" / "inputs").mkdir()
    monkeypatch.chdir(tmp_path / "shop" / "inputs")
    assert home() == CHECKOUT
    (tmp_path / "mine" / "notebooks").mkdir(parents=True)
    (tmp_path / "mine" / "notebooks" / "01_build.ipynb").touch()
    (tmp_path / "mine" / "inputs").mkdir()
    monkeypatch.chdir(tmp_path / "mine" / "inputs")
    assert home() == tmp_path / "mine"


def test_a_folder_without_notebooks_gets_a_sentence(tmp_path):
    done = run_mart("inspect", "--database", "none.duckdb", cwd=tmp_path)
    assert f"{tmp_path} has no notebooks/01_build.ipynb, so this runs the notebooks of" in done.stderr

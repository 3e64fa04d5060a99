"The page of records holds what the pages it names have measured"

import csv
import re

import pytest
from conftest import NBS, cells_of

with open(NBS / "tutorials/results/speeds.csv", encoding="utf-8", newline="") as file:
    RECORDS = list(csv.DictReader(file))


def stored_rows(page: str) -> list:
    "The numbers in each line and in each row of a table that a page has stored, as it prints them"
    texts = []
    for cell in cells_of(NBS / f"{page}.ipynb"):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            texts += re.findall(r"<tr>.*?</tr>", "".join(data.get("text/html", "")), re.DOTALL)
            text = "".join(output.get("text", "")) + "".join(data.get("text/plain", ""))
            texts += text.splitlines()
    return [re.findall(r"\d+(?:\.\d+)?", text) for text in texts]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r["what"])
def test_a_record_stands_in_the_page_it_came_from(record):
    "A page that is recorded again brings new figures; they belong into speeds.csv"
    numbers = {record[key] for key in ("median", "lowest", "highest")} - {""}
    assert numbers
    assert any(numbers <= set(row) for row in stored_rows(record["page"]))


def test_the_page_shows_every_record():
    shown = str(cells_of(NBS / "tutorials/13_records.ipynb"))
    shares = {r["what"]: r["median"].lstrip("0") for r in RECORDS if r["unit"] == "share"}
    wanted = [shares.get(r["what"], r["what"]) for r in RECORDS]  # a share stands in a sentence
    assert [text for text in wanted if text not in shown] == []

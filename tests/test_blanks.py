"""White space around values is never overlooked, wherever it stands; within values it does not count."""

from pathlib import Path

import pytest

from mart_helpers import blanks
from mart_helpers.contract import BLANKS

BLOCK = blanks._BLOCK
WITHIN_A_LINE = [blank for blank in BLANKS if blank not in "\r\n"]


def may_hold_blanks(folder: Path, text: str, delimiter: str = ",") -> bool:
    path = folder / "some.csv"
    path.write_bytes(text.encode())
    return blanks.may_hold_blanks(path, delimiter)


@pytest.mark.parametrize("blank", WITHIN_A_LINE, ids=ascii)
@pytest.mark.parametrize(
    "text", ["a,b\n1{},2\n", "a,b\n1,{}2\n", "a,b\n1,2{}\n", "a,b\n1,2{}", 'a\n"{}1"\n']
)
def test_white_space_at_an_end_of_a_value_is_found(tmp_path, text, blank):
    assert may_hold_blanks(tmp_path, text.format(blank))


@pytest.mark.parametrize("text", ['a,b\n1,"2\n"\n', 'a,b\n1,"\n2"\n', 'a,b\n1,"2\r\n",3\n'])
def test_a_line_end_within_quotes_is_found(tmp_path, text):
    assert may_hold_blanks(tmp_path, text)


def test_white_space_beside_another_delimiter_is_found(tmp_path):
    assert may_hold_blanks(tmp_path, "a;b\n1 ;2\n", ";")
    assert not may_hold_blanks(tmp_path, "a;b\n1 ,2\n", ";")


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n",
        "a,b\r\n1,2\r\n",
        "a,b\n1 1,2\n",
        'a,b,c\n1,"2,5",3\n',
        "a,b\n€1,ü\n",
        "a,b\n1,2",
        "a\n\n1\n",
    ],
)
def test_a_file_without_white_space_around_values_is_known_as_such(tmp_path, text):
    assert not may_hold_blanks(tmp_path, text)


@pytest.mark.parametrize("offset", range(-4, 5))
@pytest.mark.parametrize("text", [" ,b\n", ", b\n", "\u3000,b\n", "\xa0,b\n", "\n b\n"], ids=ascii)
def test_white_space_where_two_blocks_meet_is_found(tmp_path, offset, text):
    assert may_hold_blanks(tmp_path, "a" * (BLOCK + offset) + text)
    assert not may_hold_blanks(tmp_path, "a" * (BLOCK + offset) + "b c,\n")


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("text", ["b ", '"b\n"', '"b "', "b\xa0"], ids=ascii)
def test_white_space_in_a_last_block_of_few_bytes_is_found(tmp_path, size, text):
    begun = "a," * (BLOCK // 2)
    assert may_hold_blanks(tmp_path, begun[: BLOCK + size - len(text.encode())] + text)


@pytest.mark.parametrize(
    "text", ["a,b\n1 ,2\n", "a,b\n1 1,2\n", 'a,b\n"1",2\n', "a,b\n1,é\n"], ids=ascii
)
def test_who_does_not_look_closely_takes_all_white_space_for_some_at_an_end(tmp_path, text):
    path = tmp_path / "some.csv"
    path.write_bytes(text.encode())
    assert blanks.may_hold_blanks(path, ",", closely=False)


def test_a_file_without_white_space_is_known_as_such_at_a_glance(tmp_path):
    path = tmp_path / "some.csv"
    path.write_bytes(b"a,b\r\n1,2\r\n")
    assert not blanks.may_hold_blanks(path, ",", closely=False)

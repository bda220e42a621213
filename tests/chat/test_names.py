"""Names: those that people have, and those that deceive."""
# ruff: noqa: RUF001 -- names that look like others are the point here

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wslessons.chat.codecs import clean_text
from wslessons.chat.rules import clean_name

GOOD = [
    *(
        "x" * 32,
        "Zoë",
        "李雷",
        "a b-c_d.e",
        "systems",
        "ecosystem",
        "Seastem",
        "👋",
        "❤️",
        "1️⃣",
        "🇩🇪",
    ),
    *("O'Brien", "ʻokina", "Иван", "Ann (work)", "שלום", "ไทย", "ကျော်", "አበበ", "ᠮᠣᠩᠭᠣᠯ", "한국어"),
    *("Nguyễn Văn", "ΟΔΥΣΣΕΥΣ", "𞤀𞤣𞤤𞤢𞤥", "a&b", "$$$", "葛\U000e0100城"),
    *("علی\u200cرضا", "ශ්\u200dරී", "क्\u200dष"),
    *("👩\u200d💻", "🏳️\u200d🌈", "👨\u200d👩\u200d👧\u200d👦", "👍🏽"),
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
]


@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_good_names(name: str) -> None:
    """Names are in any script, with the joiners it needs, and of emoji; up to 32 characters."""
    assert clean_name(f"  {name} ") == unicodedata.normalize("NFC", name)


def test_a_name_has_single_spaces() -> None:
    """Any white space is one space, so that no two names differ by it alone."""
    assert clean_name("Ana\u00a0\u2003 Luz\n") == "Ana Luz"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "\u3164",
            "\u2800",
            "\u115f",
            "\uffa0",
            "\ufe0f",
            "\u00ad",
            "\u200d",
            "\ufeffx",
            "x\u200b",
        ),
        *("a\u200db", "a\u200cb", "x\u2060", "x\u180e", "x\U000e0041", "👩\u200d", "\u200d👩"),
        *("\u0301", "\u0301x", "a\x00", "\ud800", "x\udc00"),
    ],
    ids=ascii,
)
def test_what_nobody_sees_makes_no_name(name: str) -> None:
    """What is invisible is refused, alone and in a name, unless script or emoji needs it there."""
    with pytest.raises(ValueError, match="visible characters only"):
        clean_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "SYSTEM",
            "s y s t e m",
            "System:",
            "-system-",
            "systern",
            "sÿstem",
            "ⓢⓨⓢⓣⓔⓜ",
            "ｓｙｓｔｅｍ",
        ),
        *("ЅУЅТЕМ", "ꜱʏꜱᴛᴇᴍ", "ѕystem", "sуstem", "systеm", "ꓢꓬꓢꓔꓰꓟ", "𝐬𝐲𝐬𝐭𝐞𝐦"),
    ],
)
def test_nobody_is_called_system_to_the_eye(name: str) -> None:
    """What reads like the server's own name is refused, in whatever letters it is written."""
    with pytest.raises(ValueError, match="reserved"):
        clean_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("a, b", "a，b", "a、b", "علی، رضا", "bob and 12 more", "[x]", "［x］", "a﹐b"),
        *(
            "bob LEFT  the chat",
            "x joined the chat",
            "＞＞＞ x",
            "you missed 3 messages",
            "here now",
        ),
    ],
)
def test_a_name_forges_no_list_and_no_notice(name: str) -> None:
    """A roster is `NAME, NAME and 3 more`; a notice has words of its own."""
    with pytest.raises(ValueError, match=r"notice|commas|brackets"):
        clean_name(name)


@given(st.text(max_size=40))
def test_whatever_is_let_in_stays_one_name(text: str) -> None:
    """It is clean already, has no end of a line, and reads back from a line of plain text."""
    try:
        name = clean_name(text)
    except ValueError:
        return
    assert clean_name(name) == name
    assert len(name) <= 32
    assert name.split() != []
    assert name == " ".join(name.split(" "))
    assert clean_text(f"[{name}] hi") == f"[{name}] hi"

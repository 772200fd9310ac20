import pytest

from recipe.data.columns import find_columns, match_columns, pair_of, wanted_texts
from recipe.errors import RecipeError


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        (["Text", "LABEL"], {"text": None, "label": None}, ["Text", "LABEL"]),
        (["Title", "Class Index"], {"text": "title", "label": "class index"}, ["Title", "Class Index"]),
        (["text", "Text", "label"], {"text": "Text", "label": None}, ["Text", "label"]),
        (["text", "TEXT", "label"], {"text": "Text", "label": None}, [None, "label"]),  # which one is not clear
        (["\ufefftext ", "label"], {"text": "text", "label": None}, ["\ufefftext ", "label"]),
        (["text", "body"], {"text": ("body", "text"), "label": "text"}, ["body", "text"]),
    ],
)
def test_names_count_in_any_case_where_that_is_clear(names, wanted, found):
    assert list(match_columns(names, wanted).values()) == found


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (["id", "sentence1", "sentence2"], ("sentence1", "sentence2")),
        (["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], ("#1 String", "#2 String")),
        (["qid1", "qid2", "question1", "question2"], ("question1", "question2")),
        (["Hypothesis", "Premise"], ("Premise", "Hypothesis")),
        (["v1", "v2"], None),
    ],
)
def test_columns_that_look_like_a_pair_of_texts(names, pair):
    assert pair_of(names) == pair


@pytest.mark.parametrize(
    ("names", "wanted", "message"),
    [
        (["premise", "hypothesis"], {"text": None}, "for pairs of texts pass --text_column 'premise' 'hypothesis'"),
        (["Hello, you"], {"text": None}, "or, for a text on each line, pass --column_names text"),
        (["text,label"], {"text": "text"}, "give the --delimiter that stands between the columns"),
        (["a;b"], {"text": None}, "give the --delimiter that stands between the columns"),
        (["text", "y"], {"text": None, "label": None}, "texts without labels are for predict.py"),
        (["text", "coarse", "fine"], {"text": None, "label": None}, "give --label_column coarse, or fine"),
        (
            ["message"],
            {"text": "text", "label": "label"},
            "no column 'text' among 'message': texts and labels need a column each",
        ),
        (["Hello"], {"text": None, "label": None}, "a column each: write both into one file, or give the --delimiter"),
        (["text"], {"text": None, "label": None}, "no column .* among 'text': texts and labels need a column each"),
        (["text"], {"text": "Description"}, "no column 'Description' among 'text': name it with --text_column"),
        (["a", "b"], wanted_texts(["a"], "a"), "the column 'a' is given for two fields"),
        (["text", "body"], wanted_texts(["text", "subject"]), "no column 'subject' among 'text', 'body'"),
    ],
)
def test_a_column_that_is_absent_is_refused_with_the_option_that_helps(names, wanted, message):
    with pytest.raises(RecipeError, match=message):
        find_columns("a.csv", names, wanted)

from recipe.data.trained_on import count_trained_on, hash_texts, save_trained_on


def test_texts_are_counted_through_a_line_of_models(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    save_trained_on(tmp_path / "a", ["one", "zwei", "trois 🎉"], base_model=tmp_path / "nothing")
    save_trained_on(tmp_path / "b", ["four", "one"], base_model=tmp_path / "a")
    assert count_trained_on(["one", "five", "trois 🎉", "four", "one"], tmp_path / "a") == 3
    assert count_trained_on(["one", "five", "trois 🎉", "four", "one"], tmp_path / "b") == 4
    assert count_trained_on(["one"], tmp_path / "nothing") == 0


def test_hashes_are_the_same_whatever_else_is_hashed():
    texts = ["a", "", "b", "a"]
    assert hash_texts(texts).tolist() == [hash_texts([text])[0] for text in texts]

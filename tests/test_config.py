import pytest
import yaml
from conftest import ROOT
from transformers import TrainingArguments

from recipe.config import parse_arguments, resolved_config
from recipe.errors import RecipeError

BASE = ["--train_file", "a.csv", "--output_dir", "runs/none"]


def parse_yaml(tmp_path, content, *argv):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    return parse_arguments(["--config", str(path), *BASE, *argv])


def test_defaults_are_the_recipes():
    model, data, training = parse_arguments(BASE)
    assert model.trainable == ["last_blocks:1"]
    assert (training.num_train_epochs, training.per_device_train_batch_size) == (5, 8)
    assert (training.learning_rate, training.weight_decay) == (5e-5, 0.1)
    assert training.optim == "adamw_torch_fused"
    assert training.load_best_model_at_end
    assert data.remove_duplicates


def test_yaml_sets_and_the_command_line_overrides(tmp_path):
    content = "learning_rate: 5e-4\nseed: 7\ntrainable: [head, transformer.ln_f.*]\nbf16: false\nmax_length: null\n"
    content += "lr_scheduler_kwargs: {num_cycles: 2}\nremove_duplicates: no\n"
    model, data, training = parse_yaml(tmp_path, content, "--seed", "9")
    assert (training.learning_rate, training.seed) == (5e-4, 9)
    assert model.trainable == ["head", "transformer.ln_f.*"]
    assert training.lr_scheduler_kwargs == {"num_cycles": 2}
    assert (data.max_length, data.remove_duplicates) == (None, False)
    assert parse_yaml(tmp_path, "trainable: all\n")[0].trainable == ["all"]
    assert parse_yaml(tmp_path, "trainable: all\n", "--trainable", "head", "x.*")[0].trainable == ["head", "x.*"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\nseed: 2\n", r"is not YAML \(line 1: 'seed' occurs twice\)"),
        ("config: x\n", "unknown field 'config': (?!did you mean 'config')"),
        ("learning_rte: 1\n", r"recipe\.yaml: unknown field 'learning_rte': did you mean 'learning_rate'\?"),
        ("learning_rate: fast\n", r"recipe\.yaml: argument --learning_rate.* invalid float value: 'fast'"),
        ("seed: 1.5\n", "invalid int value: '1.5'"),
        ("seed: true\n", "invalid int value: 'True'"),
        ("bf16: perhaps\n", "Truthy value expected"),
        ("pooling: max\n", "invalid choice: 'max'"),
        ("seed: [1, 2]\n", "seed takes one value, not a list"),
        ("- seed\n", "is no mapping"),
        ("a: [\n", r"is not YAML \(line 2: "),
        ("eval_strategy: never\n", "never"),
        ("early_stopping_patience: 2\nload_best_model_at_end: false\n", "needs load_best_model_at_end"),
        ("test_fraction: 1.5\n", "test_fraction is 1.5"),
        ("max_length: 0\n", "max_length is 0"),
        ("num_train_epochs: 0\n", "num_train_epochs is 0"),
        ("per_device_train_batch_size: 0\n", "per_device_train_batch_size is 0"),
        ("metric_for_best_model: f2\n", "metric_for_best_model is 'f2': take one of loss, accuracy, macro_f1"),
        ("seed: -1\n", "seed is -1: take a whole number from 0 up"),
        ("dropout: 2\n", "dropout is 2.0"),
        ("learning_rate: .nan\n", "learning_rate is nan"),
        ("learning_rate: -1e-3\n", "learning_rate is -0.001"),
        ("weight_decay: .inf\n", "weight_decay is inf"),
        ("max_grad_norm: .nan\n", "max_grad_norm is nan"),
        ("num_train_epochs: .inf\n", "num_train_epochs is inf"),
        ("num_train_epochs: .nan\n", "num_train_epochs is nan"),
        ("adam_beta1: 5\n", "adam_beta1 is 5.0"),
        ("label_smoothing_factor: 5\n", "label_smoothing_factor is 5.0"),
        ("early_stopping_patience: 0\n", "early_stopping_patience is 0"),
        ("dataloader_num_workers: -1\n", "dataloader_num_workers is -1"),
        ("feature_cache_max_gb: .nan\n", "feature_cache_max_gb is nan"),
        ("fp16: true\n", "fp16 needs a GPU"),
        ("lr_scheduler_type: wavy\n", "wavy"),
        ("warmup_steps: -3\n", "warmup_steps"),
        ("eval_strategy: steps\n", "requires the save and eval strategy to match"),
        ("logging_steps: 0\n", "logging"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(RecipeError, match=message) as error:
        parse_yaml(tmp_path, content)
    assert "\n" not in str(error.value)


def test_no_is_a_strategy_though_yaml_reads_a_boolean(tmp_path):
    content = "eval_strategy: no\nsave_strategy: no\nload_best_model_at_end: no\n"
    training = parse_yaml(tmp_path, content)[2]
    assert (training.eval_strategy, training.save_strategy, training.load_best_model_at_end) == ("no", "no", False)


def test_what_follows_from_the_metric_is_not_saved(tmp_path):
    resolved = resolved_config(*parse_arguments(BASE))
    assert "greater_is_better" not in resolved
    again = parse_yaml(tmp_path, yaml.safe_dump(resolved), "--metric_for_best_model", "macro_f1")[2]
    assert again.greater_is_better
    kept = resolved_config(*parse_arguments([*BASE, "--metric_for_best_model", "loss", "--greater_is_better", "true"]))
    assert kept["greater_is_better"] is True


def test_a_wrong_command_line_is_refused():
    with pytest.raises(RecipeError, match="unknown field 'learnig_rate': did you mean 'learning_rate'"):
        parse_arguments([*BASE, "--learnig_rate", "1"])
    with pytest.raises(RecipeError, match="unknown field 'learning'"):  # no abbreviations
        parse_arguments([*BASE, "--learning", "1"])
    with pytest.raises(RecipeError, match="no data"):
        parse_arguments(["--output_dir", "x"])
    with pytest.raises(RecipeError, match="no output_dir"):
        parse_arguments(["--train_file", "x"])
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: cannot be read"):
        parse_arguments(["--config", "nowhere.yaml"])


def test_the_launchers_word_is_kept(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert parse_arguments(BASE)[2].use_cpu


@pytest.mark.parametrize("path", sorted((ROOT / "recipe" / "configs").glob("[!e]*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_parse_and_resolve_to_themselves(path, tmp_path):
    arguments = parse_arguments(["--config", str(path), "--hub_token", "secret", "--num_train_epochs", "3"])
    resolved = resolved_config(*arguments)
    assert resolved["num_train_epochs"] == 3
    assert "secret" not in str(resolved)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(resolved))
    model, data, training = parse_arguments(["--config", str(again)])
    assert (model, data) == arguments[:2]
    for name in ("learning_rate", "lr_scheduler_type", "max_grad_norm", "optim", "seed", "dataloader_drop_last"):
        assert getattr(training, name) == getattr(arguments[2], name)


def test_the_book_recipe_is_the_published_protocol():
    _, data, training = parse_arguments(["--config", "recipe/configs/sms_spam_book.yaml"])
    assert (data.csv_quoting, data.undersample, data.split_method, data.split_seed) == (
        "minimal",
        "all",
        "shuffled",
        123,
    )
    assert (training.num_train_epochs, training.per_device_train_batch_size, training.dataloader_drop_last) == (
        5,
        8,
        True,
    )
    assert (training.learning_rate, training.weight_decay, training.max_grad_norm) == (5e-5, 0.1, 0)
    assert training.lr_scheduler_type == "constant"
    assert isinstance(training, TrainingArguments)


def test_a_shipped_recipe_is_found_by_its_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    by_name = parse_arguments(["--config", "quickstart.yaml", "--train_file", "x.csv"])
    assert by_name[2].learning_rate == 1e-3
    (tmp_path / "quickstart.yaml").write_text(
        "learning_rate: 0.5\nmodel_name_or_path: recipe/assets/gpt2-nano\noutput_dir: out\n"
    )
    assert parse_arguments(["--config", "quickstart.yaml", "--train_file", "x.csv"])[2].learning_rate == 0.5


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("num_labels", "it is the number of labels that the data has"),
        ("problem_type", "each text gets one label"),
        ("streaming", "texts are read in batches"),
        ("no_cuda", "take --use_cpu"),
        ("max_seq_length", "take --max_length"),
    ],
)
def test_fields_of_other_trainers_get_a_hint_that_helps(field, hint):
    with pytest.raises(RecipeError, match=f"unknown field '{field}': {hint}"):
        parse_arguments(["--train_file", "a.csv", "--output_dir", "b", f"--{field}", "true"])

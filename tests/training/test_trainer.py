"""RecipeTrainer is Trainer: every option gives the same results with the trunk cached, without, and in Trainer itself."""

import copy
import logging

import numpy as np
import pytest
import torch
from conftest import NANO, tiny_model
from datasets import Dataset
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    GPT2Config,
    GPT2ForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from recipe import load_tokenizer
from recipe.errors import RecipeError
from recipe.model.export import to_stock
from recipe.model.freezing import freeze_except, last_blocks
from recipe.training.cache_policy import CachePolicy
from recipe.training.feature_cache import FeatureCollator
from recipe.training.trainer import RecipeTrainer

PAD = 99


def make_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 20, size=count)
    return {
        "input_ids": [rng.integers(0, 98, size=length).tolist() for length in lengths],
        "attention_mask": [[1] * length for length in lengths],
        "labels": rng.integers(0, 3, size=count).tolist(),
    }


TRAIN, EVAL, OTHER = (Dataset.from_dict(make_rows(count, seed)) for seed, count in enumerate((37, 21, 13)))


class RowsOfLists(torch.utils.data.Dataset):
    """A map-style dataset that is no datasets.Dataset."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return dict(self.rows[i])


def collate(rows):
    """Pad on the right, as DataCollatorWithPadding does; module level, so that workers can be sent it."""
    longest = max(len(row["input_ids"]) for row in rows)
    pad = {"input_ids": PAD, "attention_mask": 0}
    batch = {
        name: torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])
        for name, value in pad.items()
    }
    return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}


def frozen_model(patterns=None, **config):
    model = tiny_model(**config)
    freeze_except(model, patterns or last_blocks(model.config, 1))
    return model


def arguments(folder, **fields):
    defaults = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_steps": 3,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(str(folder), **{**defaults, **fields})


def accuracy(prediction):
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


PATHS = {"trainer": Trainer, "plain": RecipeTrainer, "cached": RecipeTrainer}


def make_trainer(path, folder, model=None, trainer_class=None, arguments_=None, **keywords):
    if path != "trainer":
        keywords |= {"feature_cache": "on" if path == "cached" else "off", "feature_cache_dir": str(folder / "cache")}
    keywords = {"data_collator": collate, "train_dataset": TRAIN, "eval_dataset": EVAL, **keywords}
    if "model_init" not in keywords:
        keywords["model"] = copy.deepcopy(model) if model is not None else frozen_model()
    return (trainer_class or PATHS[path])(args=arguments(folder / path, **(arguments_ or {})), **keywords)


def is_cached(trainer):
    batch = next(iter(trainer.get_train_dataloader()))
    return "trunk_output" in batch


def results(trainer, other=OTHER):
    """Everything that a user can ask of a trained trainer: logged losses, figures, predictions."""
    trainer.train()
    history = [
        {name: value for name, value in row.items() if "loss" in name or "accuracy" in name}
        for row in trainer.state.log_history
    ]
    figures = trainer.evaluate(other, metric_key_prefix="other") if other is not None else {}
    predictions = trainer.predict(other).predictions if other is not None else np.zeros(1)
    return history, {k: v for k, v in figures.items() if "loss" in k or "accuracy" in k}, predictions


def assert_same(one, two, atol=2e-5):
    for a, b in zip(one[0], two[0], strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(a.values()), list(b.values()), atol=atol, rtol=0)
    assert one[1].keys() == two[1].keys()
    np.testing.assert_allclose(list(one[1].values()), list(two[1].values()), atol=atol, rtol=0)
    np.testing.assert_allclose(one[2], two[2], atol=10 * atol, rtol=0)


def compare(folder, paths=("trainer", "plain", "cached"), **options):
    """Train on each path and compare all with the first; return the trainers."""
    trainers = {path: make_trainer(path, folder, **options) for path in paths}
    outcomes = {path: results(trainer) for path, trainer in trainers.items()}
    for path in paths[1:]:
        assert_same(outcomes[paths[0]], outcomes[path])
    if "cached" in trainers:
        assert is_cached(trainers["cached"])
    return trainers


def focal_loss(outputs, labels, num_items_in_batch=None):
    losses = nn.functional.cross_entropy(outputs["logits"], labels, reduction="none")
    each = (1 - (-losses).exp()) ** 2 * losses
    return each.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def batch_accuracy():
    """A metric that is fed batch by batch, as `batch_eval_metrics` asks for."""
    counts = []

    def compute(prediction, compute_result):
        counts.append((prediction.predictions.argmax(-1) == prediction.label_ids).float())
        if not compute_result:
            return None
        value = float(torch.cat(counts).mean())
        counts.clear()
        return {"accuracy": value}

    return compute


OPTIONS = {
    "defaults": {},
    "two blocks": {"model": frozen_model(["transformer.h.2.*", "transformer.h.3.*", "score.*"])},
    "head alone": {"model": frozen_model(["score.*"])},
    "mean pooling": {"model": frozen_model(pooling="mean")},
    "compute_metrics": {"compute_metrics": accuracy},
    "preprocess_logits_for_metrics": {
        "compute_metrics": accuracy,
        "preprocess_logits_for_metrics": lambda logits, labels: logits.softmax(-1),
    },
    "compute_loss_func": {"compute_loss_func": focal_loss},
    "compute_loss_func, accumulated": {
        "compute_loss_func": focal_loss,
        "arguments_": {"gradient_accumulation_steps": 3},
    },
    "gradient accumulation": {"arguments_": {"gradient_accumulation_steps": 3}},
    "label smoothing": {"arguments_": {"label_smoothing_factor": 0.1}},
    "columns kept": {"arguments_": {"remove_unused_columns": False}},
    "batch_eval_metrics": {"arguments_": {"batch_eval_metrics": True}, "compute_metrics": batch_accuracy()},
    "tokens counted": {"arguments_": {"include_num_input_tokens_seen": "non_padding"}},
    "gradient checkpointing": {
        "model": frozen_model(["transformer.h.2.*", "transformer.h.3.*", "score.*"]),
        "arguments_": {"gradient_checkpointing": True},
    },
    "reentrant gradient checkpointing": {
        "model": frozen_model(["transformer.h.2.*", "transformer.h.3.*", "score.*"]),
        "arguments_": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    },
    "gradient checkpointing of the head": {
        "model": frozen_model(["score.*"]),
        "arguments_": {"gradient_checkpointing": True},
    },
    "map-style dataset": {
        "train_dataset": RowsOfLists(TRAIN.to_list()),
        "eval_dataset": RowsOfLists(EVAL.to_list()),
    },
    "dict of eval datasets": {"eval_dataset": {"one": EVAL, "two": OTHER}, "compute_metrics": accuracy},
    "steps": {"arguments_": {"max_steps": 7, "num_train_epochs": 1, "eval_strategy": "steps", "eval_steps": 3}},
    "constant schedule without clipping": {"arguments_": {"lr_scheduler_type": "constant", "max_grad_norm": 0}},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_option_means_what_it_means_in_trainer(tmp_path, option):
    compare(tmp_path, **OPTIONS[option])


def test_evaluation_drops_no_row(tmp_path):
    for path in ("plain", "cached"):
        trainer = make_trainer(path, tmp_path, arguments_={"dataloader_drop_last": True})
        trainer.train()
        assert trainer.state.global_step == 2 * (len(TRAIN) // 4)
        assert len(trainer.predict(OTHER).predictions) == len(OTHER) == 13


def test_subclass_overrides_compute_loss(tmp_path):
    def own(base):
        class Own(base):
            def compute_loss(self, model, inputs, return_outputs=False, **keywords):
                outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
                loss = nn.functional.multi_margin_loss(outputs["logits"], inputs["labels"])
                return (loss, outputs) if return_outputs else loss

        return Own

    outcomes = {
        path: results(make_trainer(path, tmp_path, trainer_class=own(PATHS[path])))
        for path in ("trainer", "plain", "cached")
    }
    assert_same(outcomes["trainer"], outcomes["plain"])
    assert_same(outcomes["trainer"], outcomes["cached"])


def test_callbacks_get_the_model_itself(tmp_path):
    class Watch(TrainerCallback):
        def __init__(self):
            self.norms = []

        def on_step_end(self, args, state, control, model=None, **keywords):
            self.norms.append(model.transformer.h[3].mlp.c_fc.weight.norm().item())
            assert model.transformer.h[0].mlp.c_fc.weight.requires_grad is False

    watches = [Watch(), Watch()]
    for path, watch in zip(("trainer", "cached"), watches, strict=True):
        make_trainer(path, tmp_path, callbacks=[watch]).train()
    np.testing.assert_allclose(watches[0].norms, watches[1].norms, atol=1e-5)


@pytest.mark.launch
def test_tensorboard_gets_the_same_curves(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = {}
    for path in ("trainer", "cached"):
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / f"logs-{path}"))
        make_trainer(path, tmp_path, arguments_={"report_to": "tensorboard"}).train()
        events = EventAccumulator(str(next((tmp_path / f"logs-{path}").rglob("events*")).parent)).Reload()
        curves[path] = [event.value for event in events.Scalars("train/loss")]
    assert len(curves["trainer"]) == 6
    np.testing.assert_allclose(curves["trainer"], curves["cached"], atol=2e-5)


def test_best_model_is_loaded_and_patience_stops(tmp_path):
    fields = {
        "arguments_": {
            "num_train_epochs": 6,
            "save_strategy": "epoch",
            "load_best_model_at_end": True,
            "save_total_limit": 1,
        },
    }
    trainers = {
        path: make_trainer(path, tmp_path, callbacks=[EarlyStoppingCallback(1)], **fields)
        for path in ("trainer", "plain", "cached")
    }
    outcomes = {path: results(trainer) for path, trainer in trainers.items()}
    assert_same(outcomes["trainer"], outcomes["plain"])
    assert_same(outcomes["trainer"], outcomes["cached"])
    assert trainers["trainer"].state.epoch < 6  # random labels: validation gets worse
    assert trainers["trainer"].state.best_global_step == trainers["cached"].state.best_global_step


def test_groups_by_length(tmp_path):
    """Trainer draws its groups from the global random state, so only our two paths can be compared."""
    rows = TRAIN.map(lambda row: {"length": len(row["input_ids"])})
    for train in (rows, TRAIN):  # with a column of lengths, and without
        fields = {"train_dataset": train, "arguments_": {"train_sampling_strategy": "group_by_length"}}
        compare(tmp_path, paths=("plain", "cached"), **fields)


def test_resumes_exactly(tmp_path):
    fields = {"arguments_": {"save_strategy": "steps", "save_steps": 7}}
    for path in ("plain", "cached"):
        straight = make_trainer(path, tmp_path / "straight", **fields)
        straight.train()
        resumed = make_trainer(path, tmp_path / "resumed", **fields)
        resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / path / "checkpoint-7"))
        for (name, a), (_, b) in zip(straight.model.named_parameters(), resumed.model.named_parameters(), strict=True):
            assert torch.equal(a, b), name


def test_checkpoint_of_one_path_resumes_on_the_other(tmp_path):
    fields = {"arguments_": {"save_strategy": "steps", "save_steps": 7}}
    for first, second in (("plain", "cached"), ("cached", "plain")):
        outcome = results(make_trainer(first, tmp_path / first, **fields))
        other = make_trainer(second, tmp_path / first, **fields)
        other.train(resume_from_checkpoint=str(tmp_path / first / first / "checkpoint-7"))
        np.testing.assert_allclose(other.predict(OTHER).predictions, outcome[2], atol=2e-4)


def test_checkpoint_of_another_filter_is_refused(tmp_path):
    fields = {"arguments_": {"save_strategy": "steps", "save_steps": 7, "max_steps": 7}}
    make_trainer("cached", tmp_path, **fields).train()
    trainer = make_trainer("cached", tmp_path, model=frozen_model(["score.*"]), **fields)
    with pytest.raises(RecipeError, match=r"saved with another filter: transformer\.h\.3\..* trains there alone"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "cached" / "checkpoint-7"))


@pytest.mark.parametrize("path", ["plain", "cached"])
def test_a_tail_is_not_joined_to_another_base_model_or_tokenizer(tmp_path, path):
    """A checkpoint of the trained weights alone; a complete one brings its own base model along."""
    config, fields = GPT2Config.from_pretrained(NANO), {"save_strategy": "steps", "save_steps": 7, "max_steps": 7}
    checkpoint = str(tmp_path / path / "checkpoint-7")
    keywords = {"arguments_": fields, "processing_class": load_tokenizer(str(NANO), config)}
    make_trainer(path, tmp_path, **keywords).train()
    make_trainer(path, tmp_path, **keywords).train(resume_from_checkpoint=checkpoint)
    keywords["processing_class"]("a text", truncation=True, max_length=1)  # which the tokenizer remembers
    make_trainer(path, tmp_path, **keywords).train(resume_from_checkpoint=checkpoint)
    other = frozen_model()
    with torch.no_grad():
        other.transformer.h[1].ln_1.bias[3] += 0.5
    trainer = make_trainer(path, tmp_path, model=other, **keywords)
    if path == "cached":
        with pytest.raises(RecipeError, match="was trained on another base model"):
            trainer.train(resume_from_checkpoint=checkpoint)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
        assert trainer.model.transformer.h[1].ln_1.bias[3] == frozen_model().transformer.h[1].ln_1.bias[3]
    tokenizer = load_tokenizer(str(NANO), config)
    tokenizer.add_tokens(["neologism"])
    keywords["processing_class"] = tokenizer
    trainer = make_trainer(path, tmp_path, **keywords)
    with pytest.raises(RecipeError, match="was trained on another tokenizer: give"):
        trainer.train(resume_from_checkpoint=checkpoint)


@pytest.mark.launch
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_dataloader_workers_read_the_cache(tmp_path, context):
    fields = {"num_train_epochs": 1, "eval_strategy": "no"}
    workers = {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": context}
    batches = []

    class Watched(RecipeTrainer):
        def training_step(self, model, inputs, *args):
            batches.append("trunk_output" in inputs)
            return super().training_step(model, inputs, *args)

    without = make_trainer("cached", tmp_path / "without", arguments_=fields)
    trainer = make_trainer("cached", tmp_path, trainer_class=Watched, arguments_={**fields, **workers})
    assert_same(results(without, other=None), results(trainer, other=None))
    assert batches == [True] * 10


@pytest.mark.launch
def test_compiled_model(tmp_path):
    compare(
        tmp_path,
        paths=("trainer", "cached"),
        arguments_={"torch_compile": True, "torch_compile_backend": "aot_eager", "max_steps": 2},
    )


def test_padded_and_reordered_datasets_are_cached_by_their_tokens(tmp_path):
    def pad_left(row):
        missing = 20 - len(row["input_ids"])
        return {
            "input_ids": [PAD] * missing + row["input_ids"],
            "attention_mask": [0] * missing + row["attention_mask"],
        }

    model = frozen_model()
    padded = TRAIN.map(pad_left).select(range(36, -1, -1))  # an indices mapping, too
    fields = {"train_dataset": padded, "eval_dataset": EVAL.map(pad_left), "model": model}
    trainers = compare(tmp_path, **fields)
    assert len(trainers["cached"].features.rows) == len({tuple(row["input_ids"]) for row in [*TRAIN, *EVAL]})


def test_model_init_starts_over_on_one_cache(tmp_path):
    models = []

    def model_init():
        models.append(frozen_model())
        return models[-1]

    trainer = make_trainer("cached", tmp_path, model_init=model_init)
    first = results(trainer)
    features = trainer.features
    trainer.state.log_history.clear()
    assert_same(first, results(trainer))
    assert trainer.features is features
    assert len(models) == 3  # one to look at, one a training


@pytest.mark.launch
def test_optuna_runs_all_trials_on_one_cache(tmp_path):
    def search(path):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        trainer = make_trainer(path, tmp_path, model_init=lambda: frozen_model(), arguments_={"num_train_epochs": 1})
        best = trainer.hyperparameter_search(
            hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)},
            n_trials=2,
            direction="minimize",
            sampler=optuna.samplers.RandomSampler(seed=0),
        )
        return best

    best = {path: search(path) for path in ("trainer", "cached")}
    assert best["trainer"].run_id == best["cached"].run_id
    assert best["trainer"].objective == pytest.approx(best["cached"].objective, abs=2e-5)
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 1


def lora_model(targets, layers, **options):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(
        r=4, target_modules=targets, layers_to_transform=layers, layers_pattern="h", fan_in_fan_out=True, **options
    )
    return get_peft_model(tiny_model(), config)


@pytest.mark.parametrize(("targets", "layers", "depth"), [(["c_attn"], [3], 3), (["c_fc", "attn.c_proj"], [2, 3], 2)])
@pytest.mark.parametrize("options", [{"task_type": "SEQ_CLS"}, {"modules_to_save": ["score"]}])
def test_adapters_train_the_same_way_and_are_merged(tmp_path, targets, layers, depth, options):
    model = lora_model(targets, layers, **options)
    trainers = compare(tmp_path, model=model)
    assert trainers["cached"].classifier.cached_depth == depth
    trainer = trainers["cached"]
    trainer.save_model(tmp_path / "saved")
    stock = GPT2ForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    batch = collate(OTHER.to_list())
    with torch.no_grad():
        expected = trainer.model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        logits = stock(input_ids=batch["input_ids"].where(batch["attention_mask"] == 1, torch.tensor(PAD))).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_adapters_resume_exactly(tmp_path):
    model = lora_model(["c_attn"], [3], task_type="SEQ_CLS")
    fields = {"model": model, "arguments_": {"save_strategy": "steps", "save_steps": 7}}
    straight = make_trainer("cached", tmp_path / "straight", **fields)
    straight.train()
    resumed = make_trainer("cached", tmp_path / "resumed", **fields)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "cached" / "checkpoint-7"))
    for (name, a), (_, b) in zip(straight.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_stock_model_in_trainer_trains_to_the_same_logits(tmp_path):
    """The outside reference: transformers' own class, which has no bias in its head, so ours is held at 0."""
    model = frozen_model(["transformer.h.3.*", "transformer.ln_f.*", "score.weight"])
    model.score.bias.data.zero_()
    stock = to_stock(model)
    freeze_except(stock, ["transformer.h.3.*", "transformer.ln_f.*", "score.weight"])
    ours = results(make_trainer("cached", tmp_path, model=model))
    theirs = results(make_trainer("trainer", tmp_path, model=stock, data_collator=collate))
    assert_same(theirs, ours, atol=1e-4)


def test_save_model_writes_the_stock_model_and_checkpoints_hold_what_trains(tmp_path):
    from safetensors.torch import load_file

    trainer = make_trainer("cached", tmp_path, arguments_={"save_strategy": "epoch"})
    trainer.train()
    trainer.save_model()
    stock = GPT2ForSequenceClassification.from_pretrained(tmp_path / "cached")
    batch = collate(OTHER.to_list())
    with torch.no_grad():
        ids = batch["input_ids"]
        torch.testing.assert_close(
            stock(ids).logits, torch.tensor(trainer.predict(OTHER).predictions), atol=1e-4, rtol=0
        )
    names = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    (checkpoint,) = tmp_path.glob("cached/checkpoint-20")
    assert set(load_file(checkpoint / "model.safetensors")) == names


def test_a_filter_that_changes_after_caching_is_refused(tmp_path):
    class Unfreeze(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **keywords):
            model.transformer.h[2].requires_grad_(True)

    trainer = make_trainer("cached", tmp_path, callbacks=[Unfreeze()])
    with pytest.raises(RecipeError, match="the trunk was cached with 3 frozen blocks, but now 2 are"):
        trainer.train()


def test_options_that_contradict_the_filter_are_refused(tmp_path):
    model = frozen_model(["*"])
    with pytest.raises(RecipeError, match="feature_cache is on, but the first block trains"):
        RecipeTrainer(model, arguments(tmp_path, eval_strategy="no"), feature_cache="on")
    with pytest.raises(RecipeError, match="trunk_dtype is bfloat16, but the trunk is not cached"):
        RecipeTrainer(
            frozen_model(), arguments(tmp_path, eval_strategy="no"), feature_cache="off", trunk_dtype="bfloat16"
        )
    with pytest.raises(RecipeError, match="feature_cache is 'maybe': take one of auto, on, off"):
        RecipeTrainer(model, arguments(tmp_path, eval_strategy="no"), feature_cache="maybe")
    with pytest.raises(RecipeError, match="RecipeTrainer trains GPT2LastTokenClassifier, not GPT2ForSequence"):
        RecipeTrainer(to_stock(model), arguments(tmp_path, eval_strategy="no"))


def test_one_gpu_of_several_is_used_without_a_launcher(tmp_path, caplog):
    args = arguments(tmp_path, eval_strategy="no")
    args._n_gpu = 2  # as TrainingArguments counts them
    caplog.set_level(logging.WARNING, logger="recipe")
    trainer = RecipeTrainer(frozen_model(), args, train_dataset=TRAIN)
    assert trainer.args.n_gpu == 1
    assert "one of 2 GPUs is used: to use all, start with `accelerate launch`" in caplog.text


def test_data_parallel_is_refused_by_name():
    """The replicas that nn.DataParallel makes have no parameters, so nothing would train, silently."""
    replica = frozen_model()._replicate_for_data_parallel()
    with pytest.raises(RecipeError, match=r"does not train under nn\.DataParallel: start with `accelerate launch`"):
        replica(input_ids=torch.tensor([[1, 2]]))


def test_batches_with_an_unknown_text_go_through_the_whole_model(tmp_path):
    trainer = make_trainer("cached", tmp_path)
    trainer.train()
    collator = FeatureCollator(collate, trainer.features)
    assert "trunk_output" in collator([TRAIN[0], EVAL[0]])
    assert "trunk_output" not in collator([TRAIN[0], OTHER[0]])


@pytest.mark.parametrize("path", ["plain", "cached"])
def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path, path):
    class Ruin(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **keywords):
            if state.global_step == 12:
                model.score.bias.data[0] = float("nan")

    trainer = make_trainer(path, tmp_path, callbacks=[Ruin()], arguments_={"save_strategy": "epoch"})
    match = r"the loss is nan at step 13: training stops.*lower learning_rate \(0.01 now\)"
    with pytest.raises(RecipeError, match=match):
        trainer.train()
    assert trainer.state.global_step == 12
    assert [folder.name for folder in (tmp_path / path).glob("checkpoint-*")] == ["checkpoint-10"]


def test_weights_that_are_not_finite_replace_nothing(tmp_path):
    """Gradients may overflow though the loss did not, and no later step would show it."""

    class RuinTheLast(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **keywords):
            if state.global_step == 20:
                model.score.bias.data[0] = float("inf")

    trainer = make_trainer("cached", tmp_path, callbacks=[RuinTheLast()], arguments_={"save_strategy": "epoch"})
    with pytest.raises(RecipeError, match="weights are not finite after step 20"):
        trainer.train()
    assert [folder.name for folder in (tmp_path / "cached").glob("checkpoint-*")] == ["checkpoint-10"]


def test_nothing_is_cached_where_nothing_is_frozen_or_the_cache_is_off(tmp_path):
    for patterns, choice in ((["*"], "auto"), (["transformer.h.0.*", "score.*"], "auto"), (["score.*"], "off")):
        folder = tmp_path / f"{patterns[0]}{choice}".replace("*", "all")
        trainer = RecipeTrainer(
            frozen_model(patterns),
            arguments(folder, max_steps=1),
            collate,
            train_dataset=TRAIN,
            eval_dataset=EVAL,
            feature_cache=choice,
            feature_cache_dir=str(folder / "cache"),
        )
        trainer.train()
        assert trainer.features is None
        assert not list(folder.rglob("*.arrow"))


def test_cached_rows_are_not_used_for_another_model_or_a_changed_trunk(tmp_path):
    """A model that is put in the trainer's place, or a frozen block that is changed in place."""
    trainer = make_trainer("cached", tmp_path)
    trainer.train()

    def expected():
        return make_trainer("trainer", tmp_path, model=trainer.model).evaluate()["eval_loss"]

    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected(), abs=1e-5)
    with torch.no_grad():
        trainer.model.transformer.h[1].mlp.c_fc.weight.add_(0.5)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected(), abs=1e-5)
    other = frozen_model()
    with torch.no_grad():
        other.transformer.wte.weight.mul_(-1)
    trainer.model = trainer.model_wrapped = other
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected(), abs=1e-5)


def test_dataset_without_token_ids_trains_uncached(tmp_path):
    """A collator that tokenizes: there is nothing to look rows up by before a batch is made."""

    def tokenizing(rows):
        return collate([{"input_ids": row["ids"], "attention_mask": [1] * len(row["ids"]), **row} for row in rows])

    rows = [{"ids": row["input_ids"], "labels": row["labels"]} for row in TRAIN]
    fields = {"data_collator": tokenizing, "train_dataset": RowsOfLists(rows), "eval_dataset": RowsOfLists(rows)}
    options = {"arguments_": {"remove_unused_columns": False}, **fields}
    trainer = RecipeTrainer(
        frozen_model(), arguments(tmp_path / "x", remove_unused_columns=False, max_steps=3), tokenizing,
        train_dataset=fields["train_dataset"], eval_dataset=fields["eval_dataset"],
    )  # fmt: skip
    trainer.train()
    assert trainer.features is None
    with pytest.raises(RecipeError, match=r"feature_cache is on, .* but train_dataset has no length, or no input_ids"):
        make_trainer("cached", tmp_path, **options).train()


def test_resuming_by_true_takes_the_last_complete_checkpoint(tmp_path):
    fields = {"arguments_": {"save_strategy": "steps", "save_steps": 7}}
    trainer = make_trainer("cached", tmp_path, **fields)
    trainer.train()
    (tmp_path / "cached" / "checkpoint-14" / "complete.json").unlink()
    (tmp_path / "cached" / "checkpoint-14" / "optimizer.pt").unlink()
    (tmp_path / "cached" / "checkpoint-20" / "complete.json").unlink()
    resumed = make_trainer("cached", tmp_path, **fields)
    steps = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **keywords):
            steps.append(state.global_step)

    resumed.add_callback(Watch())
    resumed.train(resume_from_checkpoint=True)
    assert steps[0] == 7
    for a, b in zip(trainer.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_missing_package_is_one_line(tmp_path):
    with pytest.raises(RecipeError, match=r"training cannot start \(.*wandb"):
        RecipeTrainer(frozen_model(), arguments(tmp_path, report_to="wandb", eval_strategy="no"))


def test_checkpoints_are_not_pushed_as_models(tmp_path):
    """Trainer would copy a checkpoint's weights, the trained ones alone, over the complete model."""
    trainer = make_trainer("cached", tmp_path, arguments_={"save_strategy": "epoch"})
    assert trainer._push_from_checkpoint(str(tmp_path / "checkpoint-1")) is None


@pytest.mark.parametrize(
    "fields", [{}, {"train_sampling_strategy": "group_by_length"}, {"gradient_accumulation_steps": 2}]
)
def test_only_texts_that_a_short_run_reads_are_cached(tmp_path, fields):
    class Watch(RecipeTrainer):
        read = 0

        def training_step(self, model, inputs, *args, **keywords):
            assert "trunk_output" in inputs
            self.read += len(inputs["labels"])
            return super().training_step(model, inputs, *args, **keywords)

    fields = {"max_steps": 3, "eval_strategy": "no", **fields}
    trainer = make_trainer("cached", tmp_path, trainer_class=Watch, arguments_=fields)
    trainer.train()
    assert len(trainer.features.rows) == trainer.read == 12 * fields.get("gradient_accumulation_steps", 1)


def test_a_longer_run_of_the_same_trainer_decides_on_the_cache_again(tmp_path):
    trainer = make_trainer("cached", tmp_path, arguments_={"num_train_epochs": 1})
    trainer.cache_policy = CachePolicy("auto", str(tmp_path / "cache"))
    trainer.train()
    assert trainer.features is None
    trainer.args.num_train_epochs = 3
    trainer.train()
    assert trainer.features is not None

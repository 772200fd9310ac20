"""RecipeTrainer is Trainer: every option gives the same results with the trunk cached, without, and in Trainer itself."""

import numpy as np
import pytest
import torch
from conftest import NANO
from torch import nn
from trainer_helpers import (
    EVAL,
    OTHER,
    PAD,
    PATHS,
    TRAIN,
    RowsOfLists,
    accuracy,
    assert_same,
    cached_datasets,
    compare,
    frozen_model,
    make_trainer,
    results,
)
from transformers import (
    EarlyStoppingCallback,
    GPT2Config,
    TrainerCallback,
)

from recipe import load_tokenizer
from recipe.errors import RecipeError
from recipe.training.trainer import RecipeTrainer


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
PLAIN_TOO = {"defaults", "two blocks", "mean pooling", "gradient accumulation", "reentrant gradient checkpointing"}


@pytest.mark.parametrize(
    "option", [name if name in PLAIN_TOO else pytest.param(name, marks=pytest.mark.launch) for name in OPTIONS]
)
def test_option_means_what_it_means_in_trainer(tmp_path, option):
    """With the cache; without it, the options in which our own code differs."""
    paths = ("trainer", "plain", "cached") if option in PLAIN_TOO else ("trainer", "cached")
    compare(tmp_path, paths, **OPTIONS[option])


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


def test_a_tail_is_not_joined_to_another_base_model_or_tokenizer(tmp_path):
    path = "cached"
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
    with pytest.raises(RecipeError, match="was trained on another base model"):
        trainer.train(resume_from_checkpoint=checkpoint)
    tokenizer = load_tokenizer(str(NANO), config)
    tokenizer.add_tokens(["neologism"])
    keywords["processing_class"] = tokenizer
    trainer = make_trainer(path, tmp_path, **keywords)
    with pytest.raises(RecipeError, match="was trained on another tokenizer: give"):
        trainer.train(resume_from_checkpoint=checkpoint)


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
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


@pytest.mark.slow
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
    files = set(tmp_path.rglob("*.arrow"))
    cached_datasets(trainers["cached"].model, tmp_path, TRAIN, EVAL)  # without padding, in another order
    assert set(tmp_path.rglob("*.arrow")) == files


def test_model_init_starts_over_on_one_cache(tmp_path):
    models = []

    def model_init():
        models.append(frozen_model())
        return models[-1]

    trainer = make_trainer("cached", tmp_path, model_init=model_init)
    first = results(trainer)
    trainer.state.log_history.clear()
    assert_same(first, results(trainer))
    assert len(models) == 4  # one whose trunk is run, one to look at, one a training


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

"""Fine-tune GPT-2 into a text classifier: this script is the recipe, step by step.

The sample job on gpt2-nano (what `make quickstart` runs):
    accelerate launch --config_file accelerate_configs/cpu.yaml scripts/train.py --config recipe/configs/quickstart.yaml

Your own file, with columns `text` and `label`:
    python scripts/train.py --train_file my.csv --model_name_or_path openai-community/gpt2 --output_dir runs/mine

Any field of a recipe, and of TrainingArguments, can be given on the command line:
    python scripts/train.py --config recipe/configs/sms_spam.yaml --learning_rate 1e-4 --trainable last_blocks:2
"""

import logging
import sys
from pathlib import Path

from recipe.atomic import write_json
from recipe.config import parse_arguments, resolved_config
from recipe.distributed import on_main_process, setup_logging
from recipe.errors import printable, run_script

logger = logging.getLogger("recipe.train")


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the recipe and return the test figures."""
    # 1. The options: a YAML recipe, overridden by the command line. --help and mistakes end here, before slow imports.
    model_args, data_args, training_args = parse_arguments(sys.argv[1:] if argv is None else argv)
    from transformers import set_seed

    from recipe.data.dataset import load_splits, summary_table
    from recipe.data.tokenization import load_tokenizer, tokenize
    from recipe.data.trained_on import save_trained_on, warn_of_trained_texts
    from recipe.data.windows import choose_windows, metrics_by_text, remember_windows, tokenize_windows
    from recipe.evaluation.calibration import check_threshold, fit_to_validation
    from recipe.evaluation.metrics import compute_metrics
    from recipe.evaluation.report import evaluate_saved, validation_results
    from recipe.evaluation.run_figures import save_run_figures
    from recipe.hub.model_card import write_model_card
    from recipe.hub.publish import check_login, check_repo_id, publish
    from recipe.model.adapters import add_adapters
    from recipe.model.classifier import GPT2LastTokenClassifier
    from recipe.model.export import warn_unless_stock
    from recipe.model.freezing import freeze_except, trainable_patterns
    from recipe.model.loading import labels_of_head, load_config
    from recipe.training.cache_policy import warn_of_long_evaluation
    from recipe.training.callbacks import EarlyStopping, LogEveryEpoch
    from recipe.training.class_weights import balanced_loss
    from recipe.training.run_folder import RunFolder
    from recipe.training.trainer import RecipeTrainer

    setup_logging(training_args.process_index == 0)

    # 2. The output folder. An unfinished run of this config resumes; a folder that holds anything else is refused.
    if training_args.push_to_hub:
        check_repo_id(training_args.hub_model_id)
        on_main_process(check_login, training_args.hub_token)
    run = RunFolder(training_args, resolved_config(model_args, data_args, training_args))

    # 3. Texts and labels, in three splits. For your own: TextSplits(any DatasetDict with the columns text and label).
    name, revision = model_args.model_name_or_path, model_args.model_revision
    config = load_config(name, revision)
    splits = load_splits(data_args, labels_of_head(config))
    check_threshold(training_args.decision_threshold, splits["validation"])
    warn_of_trained_texts(splits["test"]["text"], name)

    # 4. The tokenizer. Long texts are truncated to max_length, or read in overlapping windows.
    windows = choose_windows(config, data_args.window, data_args.window_overlap, data_args.max_length)
    max_length = data_args.max_length if windows is None else None
    tokenizer = load_tokenizer(name, config, max_length, data_args.truncation_side, revision)

    # 5. The model: pretrained GPT-2 and a head. For another head, subclass it: see examples/own_head.py.
    set_seed(training_args.seed)
    model = GPT2LastTokenClassifier.from_pretrained(
        name,
        revision=revision,
        id2label=dict(enumerate(splits.label_names)),
        pooling=model_args.pooling,
        dropout=model_args.dropout,
        ignore_mismatched_sizes=model_args.ignore_mismatched_sizes,
    )
    remember_windows(model.config, windows)
    warn_unless_stock(model)

    # 6. Trainable parameters; everything else is frozen. With lora_r, adapters train in place of the matrices.
    report = freeze_except(model, trainable_patterns(model.config, model_args.trainable))
    if model_args.lora_r:
        model, report = add_adapters(model, model_args.lora_r, model_args.lora_alpha)
    logger.info("%s\n\n%s\n\n%s", summary_table(splits.summary), report, model.about_head)

    # 7. Tokens: one row a text, or a window. The test waits for the saved model.
    read = {name: splits[name] for name in ("train", "validation")}
    tokenized = tokenize(read, tokenizer) if windows is None else tokenize_windows(read, tokenizer, windows)
    warn_of_long_evaluation({**tokenized.num_rows, "test": len(splits["test"])}, training_args)

    # 8. Training. Other metrics, losses and callbacks go in here: see examples/own_metric.py and own_loss.py.
    balanced = data_args.class_weight == "balanced"
    validation, patience = tokenized["validation"], training_args.early_stopping_patience
    trainer = RecipeTrainer(
        model,
        training_args,
        train_dataset=tokenized["train"],
        eval_dataset=validation,
        processing_class=tokenizer,
        compute_metrics=metrics_by_text(compute_metrics, validation["text_index"]) if windows else compute_metrics,
        compute_loss_func=balanced_loss(tokenized["train"]["labels"], model.num_labels) if balanced else None,
        callbacks=[LogEveryEpoch(), *([EarlyStopping(patience)] if patience else [])],
        feature_cache=model_args.feature_cache,  # the frozen trunk runs once per text
        feature_cache_dir=model_args.feature_cache_dir,
        feature_cache_max_gb=model_args.feature_cache_max_gb,
        trunk_dtype=model_args.trunk_dtype,
    )
    trainer.check_optimizer()
    run.start(splits)
    trained = trainer.train(resume_from_checkpoint=run.checkpoint)

    # 9. Validation, with the best model: where asked for, it decides a temperature and a threshold.
    logits, labels = trainer.predict(validation).predictions, splits["validation"]["label"][:]
    text_index = validation["text_index"][:] if windows else None
    temperature = fit_to_validation(
        model, logits, labels, text_index, training_args.calibrate, training_args.decision_threshold
    )
    figures = validation_results(model, logits, labels, text_index, tokenized.coverage["validation"], temperature)

    # 10. The stock checkpoint, which every Hugging Face tool loads, and its test figures, computed from the saved folder.
    trainer.save_model()
    run.save(splits)
    if trainer.is_world_process_zero():
        save_trained_on(training_args.output_dir, splits["train"]["text"], name)
    counts = {"trainable_parameters": report.trainable, "total_parameters": report.total}
    counts |= {f"train_{name}": value for name, value in tokenized.coverage["train"].figures().items()}
    counts |= {"train_resumed": True} if run.checkpoint else {}  # then train_runtime is of the rest alone
    trainer.save_metrics("train", {**trained.metrics, "train_samples": len(splits["train"]), **counts}, combined=False)
    if trainer.is_world_process_zero():
        write_json(Path(training_args.output_dir, "eval_results.json"), figures)
    trainer.save_state()
    measured = evaluate_saved(
        training_args.output_dir,
        splits["test"],
        train=splits["train"] if training_args.baselines else None,
        device=training_args.device,
        class_weight=data_args.class_weight,
        temperature=temperature,
        progress=not training_args.disable_tqdm,
    )

    # 11. Pictures and the model card; the Hub, where asked for.
    if trainer.is_world_process_zero():
        save_run_figures(training_args.output_dir, measured, trainer.state.log_history, training_args.plots)
        write_model_card(training_args.output_dir, measured)
    run.finish()
    if trainer.is_world_process_zero():
        print(f"\nSaved to {printable(training_args.output_dir)}")
        if training_args.push_to_hub:
            args = training_args
            print(publish(args.output_dir, args.hub_model_id, args.hub_token, args.hub_private_repo, args.hub_revision))
    return measured.results("test")


if __name__ == "__main__":
    run_script(main)

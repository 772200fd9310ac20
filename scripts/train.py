"""Fine-tune GPT-2 into a text classifier: this script is the recipe, step by step.

The sample job on gpt2-nano (what `make quickstart` runs):
    accelerate launch --config_file accelerate_configs/cpu.yaml scripts/train.py --config recipe/configs/quickstart.yaml --overwrite_output_dir

Your own file, with columns `text` and `label`:
    python scripts/train.py --train_file my.csv --model_name_or_path openai-community/gpt2 --output_dir runs/mine

Any field of a recipe, and of TrainingArguments, can be given on the command line:
    python scripts/train.py --config recipe/configs/sms_spam.yaml --learning_rate 1e-4 --trainable last_blocks:2
"""

import logging
import sys

from recipe.config import parse_arguments, resolved_config
from recipe.distributed import on_main_process, setup_logging
from recipe.errors import printable, run_script

logger = logging.getLogger("recipe.train")


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run the recipe and return the test figures."""
    # 1. The options: a YAML recipe, overridden by the command line. --help and mistakes end here, before slow imports.
    model_args, data_args, training_args = parse_arguments(sys.argv[1:] if argv is None else argv, description=__doc__)
    import recipe
    from recipe.evaluation import run_steps
    from recipe.evaluation.calibration import check_calibration, check_threshold

    setup_logging(training_args.process_index == 0)
    recipe.keep_columns(data_args, model_args.model_name_or_path)  # of a saved model that reads pairs
    if training_args.push_to_hub:
        recipe.check_repo_id(training_args.hub_model_id)
        on_main_process(recipe.check_login, training_args.hub_token)
    # The output folder: an unfinished run of this config resumes; a folder that holds anything else is refused.
    run = recipe.RunFolder(training_args, resolved_config(model_args, data_args, training_args))

    # 2. Texts and labels, in three splits. For your own: recipe.TextSplits(a DatasetDict with the columns text and label).
    name, revision = model_args.model_name_or_path, model_args.model_revision
    config = recipe.load_config(name, revision)
    splits = recipe.once_a_machine(recipe.load_splits, data_args, recipe.head_labels(config))
    check_threshold(training_args.decision_threshold, splits["validation"])
    recipe.warn_about_trained_texts(splits["test"]["text"], name)

    # 3. The tokenizer. Long texts are cut to max_length, or read in overlapping windows.
    windows = recipe.choose_windows(config, data_args.window, data_args.window_overlap, data_args.max_length)
    max_length = data_args.max_length if windows is None else None
    side, separator = data_args.truncation_side, data_args.separator
    tokenizer = recipe.load_tokenizer(name, config, max_length, side, revision, separator)

    # 4. The model: pretrained GPT-2, and a head on its last token. For another head, subclass it: see examples/own_head.py.
    model = recipe.load_model(model_args, splits.label_names, training_args.seed)
    recipe.remember_windows(model.config, windows)
    recipe.warn_unless_stock(model)

    # 5. What trains, by parameter name; everything else is frozen. With lora_r, LoRA adapters train in place of the matrices.
    head_description = model.head_description
    model, report = recipe.freeze(model, model_args)
    logger.info("%s\n\n%s\n\n%s", recipe.summary_table(splits.summary), report, head_description)
    if training_args.calibrate:
        check_calibration(model)

    # 6. Tokens, and the frozen trunk, run once per text: its output is the column `trunk_output`, kept in --feature_cache_dir
    # for later runs with the same frozen weights. Test texts are read in step 8, by the saved model.
    rows = {part: splits[part] for part in ("train", "validation")}
    tokenized = recipe.once_a_machine(recipe.tokenize_texts, rows, tokenizer, windows)
    cached = recipe.cache_features(model, tokenized, **model_args.cache, args=training_args)

    # 7. Training of the tail, by RecipeTrainer. Other metrics, losses and callbacks are its keywords, given here: see
    # examples/own_metric.py and own_loss.py.
    arguments, callbacks = (model_args, data_args, training_args), recipe.callbacks_for(training_args)
    trainer = recipe.make_trainer(model, arguments, cached, tokenizer, callbacks=callbacks)
    trainer.check_optimizer()
    run.start(splits)
    trained = trainer.train(resume_from_checkpoint=run.checkpoint)
    coverage = tokenized.coverage
    figures, temperature = run_steps.validate(
        trainer, splits["validation"], cached["validation"], coverage["validation"]
    )

    # 8. The model, saved as a stock GPT2ForSequenceClassification; test figures, measured on the saved folder; card and Hub.
    run_steps.save_run(run, trainer, splits, name, trained, report, coverage["train"], figures)
    measured = recipe.evaluate_saved(
        training_args.output_dir,
        splits["test"],
        train=splits["train"] if training_args.baselines else None,
        device=training_args.device,
        class_weight=data_args.class_weight,
        temperature=temperature,
        progress=not training_args.disable_tqdm,
        save_texts=training_args.save_texts,
    )
    if trainer.is_world_process_zero():
        recipe.save_run_figures(training_args.output_dir, measured, trainer.state.log_history, training_args.plots)
        recipe.write_model_card(training_args.output_dir, measured)
    run.finish()
    if trainer.is_world_process_zero():
        print(f"\nSaved to {printable(training_args.output_dir)}")
        if training_args.push_to_hub:
            args = training_args
            print(
                recipe.publish(
                    args.output_dir, args.hub_model_id, args.hub_token, args.hub_private_repo, args.hub_revision
                )
            )
    return measured.results("test")


if __name__ == "__main__":
    run_script(main)

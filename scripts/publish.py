"""Publish a finished run on the Hugging Face Hub, in one commit: the model, its card, its pictures and figures.

What would go, with sizes, and nothing sent:
    python scripts/publish.py --model_dir runs/quickstart --repo_id me/spam-filter --dry_run

The upload, after `hf auth login`; a new repository is private unless you say --public:
    python scripts/publish.py --model_dir runs/quickstart --repo_id me/spam-filter --license mit --language en
"""

import argparse
from pathlib import Path

from recipe.errors import OneLineParser, RecipeError, printable, run_script


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    add = parser.add_argument
    add("--model_dir", required=True, help="The output_dir of a finished run.")
    add("--repo_id", help="owner/name on the Hub; by default your own name and the folder's.")
    add("--revision", help="The branch to commit to, made if it does not exist; main if not given.")
    add("--commit_message", default="Upload the classifier", help="Of the one commit.")
    add("--public", action="store_true", help="Make a new repository public. One that exists stays as it is.")
    add("--license", help="Front matter of the card: the licence's identifier, such as mit or apache-2.0.")
    add("--language", nargs="+", help="Front matter: languages of the texts, such as en.")
    add("--tags", nargs="+", help="Front matter: more tags.")
    add("--widget_text", nargs="+", help="Front matter: example texts, which anybody can then read.")
    add("--dry_run", action="store_true", help="List the files, and send nothing.")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from recipe.hub.model_card import CARD_FILE
    from recipe.hub.publish import check_repo_id, files_to_publish, publish

    check_repo_id(args.repo_id)
    if args.commit_message == "":
        raise RecipeError("commit_message is empty: give one, or leave it out")
    files = files_to_publish(args.model_dir)
    for path in files:
        print(f"{path.stat().st_size:>14,}  {printable(str(path.relative_to(args.model_dir)))}")
    print(f"{sum(path.stat().st_size for path in files):>14,}  bytes in {len(files)} files")
    if not any(path.name == CARD_FILE for path in files):
        print(f"{CARD_FILE}, the model card, is missing: one is written before the upload")
    if args.dry_run:
        seen = "public" if args.public else "private"
        print(
            f"Nothing was sent. It would go to {args.repo_id or Path(args.model_dir).resolve().name}, {seen} if it is new"
        )
        return
    fields = {"license": args.license, "language": args.language, "tags": args.tags}
    fields["widget"] = [{"text": text} for text in args.widget_text] if args.widget_text else None
    metadata = {name: value for name, value in fields.items() if value}
    published = publish(
        args.model_dir,
        args.repo_id,
        private=not args.public,
        revision=args.revision,
        commit_message=args.commit_message,
        **metadata,
    )
    print(f"\n{published}")


if __name__ == "__main__":
    run_script(main)

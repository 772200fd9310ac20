"""List the cached outputs of frozen trunks, with their sizes, and clear them.

python scripts/feature_cache.py
python scripts/feature_cache.py --clear
python scripts/feature_cache.py --clear_unused_days 30
"""

from pathlib import Path

from recipe.errors import OneLineParser, RecipeError, printable, run_script, shorten


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--feature_cache_dir", type=Path, help="As in training; by default in the Hugging Face home.")
    parser.add_argument("--clear", action="store_true", help="Remove them all.")
    parser.add_argument("--clear_unused_days", type=float, help="Remove those that were not used for so many days.")
    args = parser.parse_args()
    from recipe.training.cache_folder import DEFAULT_FOLDER, clear_caches, list_caches

    if args.clear and args.clear_unused_days is not None:
        raise RecipeError("clear removes all trunks, clear_unused_days some: give one of them")
    if args.clear_unused_days is not None and not args.clear_unused_days >= 0:
        raise RecipeError(f"clear_unused_days is {args.clear_unused_days}: take a number from 0 up")
    cache = args.feature_cache_dir or DEFAULT_FOLDER
    if args.feature_cache_dir and not args.feature_cache_dir.is_dir():
        raise RecipeError(
            f"feature_cache_dir {args.feature_cache_dir} is no folder: give the one that training was given"
        )
    total = 0
    for folder, about, size in list_caches(cache):
        kept = "one token a text" if about.get("one_token_a_text") else "all tokens"
        dtype = str(about.get("dtype")).removeprefix("torch.")
        what = f"{about.get('model')}, {about.get('blocks')} blocks, {dtype}, {kept}"
        print(f"{size / 1e6:10.1f} MB  {folder.name}  {shorten(what, 120)}")
        total += size
    print(f"{total / 1e6:10.1f} MB  in {printable(str(cache))}")
    if args.clear or args.clear_unused_days is not None:
        print(f"Cleared {clear_caches(cache, 0 if args.clear else args.clear_unused_days) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)

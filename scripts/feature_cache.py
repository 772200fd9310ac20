"""List the cached outputs of frozen trunks, with their sizes, and clear them.

python scripts/feature_cache.py
python scripts/feature_cache.py --clear
python scripts/feature_cache.py --clear_unused_days 30
"""

from pathlib import Path

from recipe.errors import OneLineParser, run_script


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--feature_cache_dir", type=Path, help="As in training; by default in the Hugging Face home.")
    parser.add_argument("--clear", action="store_true", help="Remove them all.")
    parser.add_argument("--clear_unused_days", type=float, help="Remove those that were not used for so many days.")
    args = parser.parse_args()
    from recipe.training.cache_policy import DEFAULT_FOLDER, clear_caches, list_caches

    cache = args.feature_cache_dir or DEFAULT_FOLDER
    total = 0
    for folder, about, size in list_caches(cache):
        kept = "one token a text" if about["one_token_a_text"] else "all tokens"
        dtype = about["dtype"].removeprefix("torch.")
        print(f"{size / 1e6:10.1f} MB  {folder.name}  {about['model']}, {about['blocks']} blocks, {dtype}, {kept}")
        total += size
    print(f"{total / 1e6:10.1f} MB  in {cache}")
    if args.clear or args.clear_unused_days is not None:
        print(f"Cleared {clear_caches(cache, 0 if args.clear else args.clear_unused_days) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)

"""List the cached outputs of frozen trunks, with their sizes, and clear them.

python scripts/feature_cache.py
python scripts/feature_cache.py --clear
"""

from pathlib import Path

from recipe.errors import OneLineParser, run_script
from recipe.training.feature_cache import DEFAULT_FOLDER, clear_caches, list_caches


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--feature_cache_dir", type=Path, default=DEFAULT_FOLDER, help="As in training.")
    parser.add_argument("--clear", action="store_true", help="Remove them all.")
    args = parser.parse_args()
    for folder, about, size in list_caches(args.feature_cache_dir):
        kept = "one token a text" if about["one_token_a_text"] else "all tokens"
        dtype = about["dtype"].removeprefix("torch.")
        print(f"{size / 1e6:10.1f} MB  {folder.name}  {about['model']}, {about['blocks']} blocks, {dtype}, {kept}")
    total = sum(size for _, _, size in list_caches(args.feature_cache_dir))
    print(f"{total / 1e6:10.1f} MB  in {args.feature_cache_dir}")
    if args.clear:
        print(f"Cleared {clear_caches(args.feature_cache_dir) / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)

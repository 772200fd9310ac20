"""The demo page (optional): a saved classifier in the browser, built with Gradio; listens on localhost only, unless told otherwise."""

import html
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from markdown_it import MarkdownIt

from recipe.data.texts import clean_text, pair_fields_of
from recipe.errors import RecipeError, printable, user_message
from recipe.inference.occlusion import Occlusion, leave_one_out
from recipe.inference.prediction_files import open_predictions
from recipe.inference.text_classifier import TextClassifier
from recipe.shipped import as_typed

MAX_BARS = 10  # labels shown, likeliest first
MAX_CHARACTERS = 20_000  # of a typed text
MAX_UPLOAD_MB = 100
MODEL = {"concurrency_limit": 1, "concurrency_id": "model"}  # one text or file at a time: others wait in the queue
PRIVATE = {"api_visibility": "private"}

# The page asks nobody but its own server for anything, whatever a text, a label or a model's card holds.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'self'; object-src 'none'"
LOOKS = {
    "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    "head": f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
    "css": """
        .answer p, .answer h1 { margin: 0 0 0.5rem; color: var(--body-text-color); }
        .answer .note { opacity: 0.75; font-size: var(--text-sm); }
        .answer .decision { font-size: var(--text-xl); }
        .occluded { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9; max-height: 30rem; overflow-y: auto;
            color: var(--body-text-color); padding: 0.75rem; border: 1px solid var(--border-color-primary);
            border-radius: var(--radius-md); --most: #fbbf24; }
        .dark .occluded { --most: #b45309; }
        .occluded mark { color: inherit; border-radius: 3px; padding: 2px 0;
            background: color-mix(in srgb, var(--most) var(--shade), transparent); }
        .card :is(table, pre) { display: block; overflow-x: auto; }
        .card pre { padding: 0.75rem; background: var(--background-fill-secondary); border-radius: var(--radius-md); }
        .card :is(th, td) { padding: 0.25rem 0.75rem !important; border-color: var(--border-color-primary) !important; }
        .pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); align-items: start; }
        .pictures .image-container { padding-top: 2rem; background: white; }
    """,
}
SAFE = {
    "share": False,
    "quiet": True,
    "prevent_thread_lock": True,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "mcp_server": False,
    "ssr_mode": False,
    "pwa": False,
    "allowed_paths": [],
    "max_file_size": f"{MAX_UPLOAD_MB}mb",
}


def build_page(classifier: TextClassifier, model_dir: str | Path) -> gr.Blocks:
    """Return the page: a text's label and the words it depends on, a file's labels, the model's card and pictures."""
    name = Path(model_dir).expanduser().resolve().name
    labels = f"{len(classifier.label_names)} labels: {', '.join(classifier.label_names[:MAX_BARS])}"
    more = " ..." if len(classifier.label_names) > MAX_BARS else ""
    with gr.Blocks(title=printable(name), analytics_enabled=False, delete_cache=(600, 3600)) as page:
        show(f"<h1>{escaped(name)}</h1><p class='note'>A text classifier with {escaped(labels + more)}</p>")
        with gr.Tab("Text"):
            add_text_tab(classifier, pair_fields_of(model_dir))
        with gr.Tab("File"):
            add_file_tab(classifier, pair_fields_of(model_dir))
        with gr.Tab("Model"):
            add_model_tab(Path(model_dir).expanduser())
    return page.queue(max_size=32, api_open=False)


def serve(page: gr.Blocks, host: str, port: int) -> str:
    """Serve the page in threads, until `page.close()`; return its address."""
    os.environ["no_proxy"] = "*"  # Gradio asks its own server whether it is up, which a proxy cannot reach
    name = f"[{host}]" if ":" in host else host
    _, address, _ = page.launch(server_name=name, server_port=port, **SAFE, **LOOKS)
    return address


def add_text_tab(classifier: TextClassifier, pair: dict[str, str | None]) -> None:
    """Add the box for a text, the bars of its probabilities, and the words that were left out."""

    def classify(text: str, progress: gr.Progress = gr.Progress()) -> Iterator[tuple[str, dict[str, float], str]]:
        """Yield the answer at once, and again with what leaving words out has shown."""
        with errors_on_the_page():
            if len(text) > MAX_CHARACTERS:
                raise RecipeError(f"the text has {len(text):,} characters: give up to {MAX_CHARACTERS:,}, or a file")
            text = clean_text(text)
            (label,), (probabilities,) = classifier.predict([text])
            bars = dict(zip(map(printable, classifier.label_names), probabilities.tolist(), strict=True))
            decision = decision_html(classifier, text, label, probabilities)
            yield decision, bars, ""
            bar = progress.tqdm(None, desc="Leaving out each word", unit="texts")
            occlusion = leave_one_out(classifier, text, classifier.label_names.index(label), bar)
            yield decision, bars, occlusion_html(text, label, occlusion)

    with gr.Row():
        with gr.Column():
            text = gr.Textbox(label="Text", lines=7, max_lines=14, placeholder="Type or paste a text")
            if pair["text_pair_column"]:
                show(f"<p class='note'>{escaped(pair_note(pair['text_pair_separator']))}</p>")
            button = gr.Button("Classify", variant="primary")
        with gr.Column():
            decision = show("<p class='note'>The answer appears here.</p>", elem_id="decision")
            bars = gr.Label(label="Probabilities", num_top_classes=MAX_BARS, show_heading=False, elem_id="bars")
    explanation = show("", elem_id="explanation")
    options = {"show_progress_on": explanation, **MODEL, **PRIVATE}
    gr.on([button.click, text.submit], classify, text, [decision, bars, explanation], **options)


def pair_note(separator: str) -> str:
    return f"The model reads pairs: give both texts in one, with {separator!r} between."


def decision_html(classifier: TextClassifier, text: str, label: str, probabilities) -> str:
    """Return the label that the model decides for, and all that one has to know to read it."""
    probability = probabilities[classifier.label_names.index(label)]
    notes = []
    if classifier.decision_threshold is not None:
        second, threshold = classifier.label_names[1], classifier.decision_threshold
        notes.append(
            f"This model decides for {second} from a probability of {threshold:g} on, else for the other label."
        )
    if others := sorted(probabilities)[:-MAX_BARS]:
        notes.append(f"{len(others)} more labels are not shown: each has a probability of {others[-1]:.4f} or less.")
    (ids,), (uncut,) = classifier.encode([text])
    if len(ids) < uncut:
        end = "last" if classifier.tokenizer.truncation_side == "left" else "first"
        notes.append(f"The model reads only the {end} {len(ids):,} of the text's {uncut:,} tokens.")
    if classifier.windows is not None and len(windows := classifier.windows.cut(ids)) > 1:
        notes.append(f"The text is read in {len(windows)} windows, whose probabilities are averaged.")
    answer = f"<p class='decision'><b>{escaped(label)}</b>, with a probability of {probability:.4f}</p>"
    return answer + "".join(f"<p class='note'>{escaped(note)}</p>" for note in notes)


def occlusion_html(text: str, label: str, occlusion: Occlusion) -> str:
    """Return the text with each piece coloured by how far the label's log-odds fall without it."""
    if not occlusion.spans:
        return "<p class='note'>The text has no words to leave out.</p>"
    each = "Each word"
    if occlusion.words > len(occlusion.spans):
        each = f"The text has {occlusion.words:,} words: each of {len(occlusion.spans)} runs of them"
    # The strongest piece gets the full colour, but only if the odds at least halve: else all of them matter little.
    full = max(occlusion.drops.max(), 0.7)
    parts, done = [], 0
    for (start, end), without, drop in zip(occlusion.spans, occlusion.without, occlusion.drops, strict=True):
        piece = text[start:end].lstrip()
        shade, tip = 100 * max(drop, 0) / full, f"{occlusion.probability:.4f}, without it {without:.4f}"
        parts.append(escaped(text[done : end - len(piece)]))
        parts.append(f'<mark style="--shade:{shade:.0f}%" title="{tip}">{escaped(piece)}</mark>')
        done = end
    parts.append(escaped(text[done:]))
    shown = (
        f"{each} is left out once: the stronger the colour, the more the probability of <b>{escaped(label)}</b> falls"
    )
    shown += " without it. This is how the answer changes, and not the model's reason."
    return f"<p>{shown}</p><div class='occluded' dir='auto'>{''.join(parts)}</div>"


def add_file_tab(classifier: TextClassifier, pair: dict[str, str | None]) -> None:
    """Add the upload, and the file of predictions that scripts/predict.py would write."""

    def classify_file(
        upload: str | None, column: str, ending: str, progress: gr.Progress = gr.Progress()
    ) -> tuple[str, str]:
        from recipe.data.readers import read_texts  # pandas and others, which a single text does without

        with errors_on_the_page(upload):
            if upload is None:
                raise RecipeError("no file: choose one first")
            source, counts = Path(upload), Counter()
            output = source.with_name(f"{source.name.split('.')[0]}_labels{ending}")
            wanted = {"text": column.strip() or None, "text_pair": pair["text_pair_column"]}
            bar = progress.tqdm(None, desc="Classifying", unit="texts")
            with open_predictions(output, classifier.label_names) as writer:
                for texts, others in read_texts(source, wanted, separator=pair["text_pair_separator"]):
                    labels, probabilities = classifier.predict(texts, progress=bar)
                    writer.write(texts, labels, probabilities, others)
                    counts.update(labels)
            shares = ", ".join(f"{label} {count:,}" for label, count in counts.most_common())
            return f"<p>{counts.total():,} texts classified: {escaped(shares)}</p>", str(output)

    show(
        "<p>The file comes back with a label and a probability for every label, row by row, as "
        f"<code>{as_typed('scripts/predict.py')}</code> writes it. Up to {MAX_UPLOAD_MB} MB: CSV, TSV, JSON lines (each also .gz) or Parquet.</p>"
    )
    with gr.Row():
        with gr.Column():
            upload = gr.File(label="Texts", height=160, elem_id="upload")
            column = gr.Textbox(
                label="Column of the texts (text_column)", placeholder="found by its name if left empty"
            )
            ending = gr.Radio([("CSV", ".csv"), ("JSON lines", ".jsonl")], value=".csv", label="Format of the result")
            button = gr.Button("Classify the file", variant="primary")
        with gr.Column():
            result = show("<p class='note'>The result appears here.</p>", elem_id="result")
            output = gr.File(label="Predictions", interactive=False, height=160, elem_id="predictions")
    button.click(classify_file, [upload, column, ending], [result, output], **MODEL, **PRIVATE)


def add_model_tab(model_dir: Path) -> None:
    """Add the model's card and the pictures of its figures folder, or a line that there are none."""
    card, pictures = model_dir / "README.md", sorted((model_dir / "figures").glob("*.png"))
    if card.is_file():
        gr.HTML(card_html(card.read_text(encoding="utf-8", errors="replace")), elem_classes="card prose")
    else:
        show("<p class='note'>This model's folder has no card (README.md).</p>")
    if not pictures:
        show("<p class='note'>This model's folder has no pictures (figures/*.png).</p>")
    with gr.Row(elem_classes="pictures"):
        for picture in pictures:
            name = printable(picture.stem.replace("_", " "))
            gr.Image(picture, label=name, interactive=False, buttons=["fullscreen"])


def card_html(card: str) -> str:
    """Return a card as HTML: without its front matter and comments; its pictures follow below it, and its tags are text."""
    card = re.sub(r"\A---\n.*?\n---\n", "", card.replace("\r\n", "\n"), flags=re.DOTALL)
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    markdown.add_render_rule("image", lambda *_: "")
    return markdown.render(printable(re.sub(r"<!--.*?-->", "", card, flags=re.DOTALL)))


def show(content: str, **options) -> gr.HTML:
    return gr.HTML(content, elem_classes="answer", **options)


def escaped(text: str) -> str:
    """Return a text that a browser shows as it is: no markup, no control characters, no marks that turn the direction."""
    return html.escape(printable(text.replace("\N{NO-BREAK SPACE}", " ")))


@contextmanager
def errors_on_the_page(upload: str | None = None) -> Iterator[None]:
    """Show the line of an error that the user can fix; paths of the server are left out of it."""
    try:
        yield
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        folder = f"{Path(upload).parent}/" if upload else ""
        raise gr.Error(escaped(message.replace(folder, "")), print_exception=False, duration=None) from error

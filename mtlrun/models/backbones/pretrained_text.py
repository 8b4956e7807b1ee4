"""A pretrained encoder of text from a local folder."""

from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mtlrun.models.backbones.base import Backbone
from mtlrun.models.checks import expect_choice
from mtlrun.models.layers import only_tokens
from mtlrun.types import InputKind


class PretrainedText(Backbone):
    """An encoder of Hugging Face's transformers (BERT, RoBERTa, DistilBERT, ...) as one stage.

    The dataset must number words as the encoder does, plus 1 so that 0 is padding: its setting
    ``dataset.tokenizer`` with the same folder does that. The encoder gives a vector for each token;
    what it has on top of them (a pooler) is left out. Nothing is ever downloaded.

    Args:
        input_shape: [longest row].
        vocabulary: numbers that a token may have.
        path: folder with ``config.json`` and the weights, as ``save_pretrained`` writes them.
        freeze: what is not trained: ``none``, ``embeddings`` (the table of words) or ``all``, which
            also turns off the encoder's dropout.

    Raises:
        ValueError: the package or the folder is missing, the folder holds no such encoder, or the
            dataset's numbers or rows do not fit the encoder.
    """

    reads: ClassVar[tuple[InputKind, ...]] = ("tokens",)

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        vocabulary: int,
        path: str | None = None,
        freeze: str = "none",
    ) -> None:
        expect_choice("freeze", freeze, ("none", "embeddings", "all"))
        if path is None or not (folder := Path(path).expanduser()).is_dir():
            raise ValueError(
                f"path={path} is no folder: name one with an encoder's config.json and weights, as "
                "save_pretrained of the package transformers writes them. Nothing is downloaded"
            )
        model = _load(folder)
        _expect_same_words(model, vocabulary, folder)
        longest = longest_row(model)
        if longest is not None and input_shape[0] > longest:
            raise ValueError(
                f"rows of up to {input_shape[0]} tokens, and the encoder in {folder} reads at most "
                f"{longest}: use dataset.max_length={longest}"
            )
        if freeze == "embeddings":
            model.get_input_embeddings().requires_grad_(False)
        stages = [Encoder(model, frozen=freeze == "all")]
        super().__init__(stages, [int(model.config.hidden_size)], ["sequence"])


class Encoder(nn.Module):
    """Tokens, [N, L], to a sequence, [N, L, C].

    Args:
        model: takes ``input_ids`` and ``attention_mask``.
        frozen: whether it is neither trained nor drops anything.
    """

    def __init__(self, model: Any, frozen: bool) -> None:
        super().__init__()
        self.model = model.requires_grad_(False) if frozen else model
        self.frozen = frozen
        padding = getattr(model.config, "pad_token_id", None)
        self.padding = 0 if padding is None else int(padding)
        self.train()

    def train(self, mode: bool = True) -> "Encoder":
        """Training mode, which a frozen encoder does not take part in."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def forward(self, tokens: Tensor) -> Tensor:
        """A sequence, 0 at padding."""
        here = tokens != 0
        seen = here | ~here.any(1, keepdim=True)  # attention over nothing would be NaN
        numbers = torch.where(here, tokens - 1, self.padding)
        with torch.no_grad() if self.frozen else nullcontext():
            given = self.model(input_ids=numbers, attention_mask=seen.long())
            return only_tokens(given.last_hidden_state, here)


def _load(folder: Path) -> Any:
    """The encoder in a folder, float32, without its pooler."""
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise ValueError(
            f"this needs the package transformers, which cannot be imported ({error}). Install it "
            "with pip install 'mtlrun[text]'"
        ) from error
    transformers.logging.disable_progress_bar()  # a bar of its own for the blink of a load
    try:
        model = transformers.AutoModel.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"path={folder} holds no encoder that transformers can read: {error}"
        ) from error
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"path={folder} holds an encoder and a decoder ({model.config.model_type}), and this "
            "needs an encoder alone, for example BERT's"
        )
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # no gradient would ever reach it
    return model.float()


def _expect_same_words(model: Any, vocabulary: int, folder: Path) -> None:
    """Refuse a dataset whose words have other numbers than the encoder's.

    An encoder's table may have rows that its tokenizer does not use; then the tokenizer decides.
    """
    rows = model.get_input_embeddings().num_embeddings
    if vocabulary - 1 == rows or (vocabulary - 1 < rows and vocabulary - 1 == _words_in(folder)):
        return
    raise ValueError(
        f"the dataset numbers {vocabulary - 1} words, and the encoder in {folder} has {rows}: use "
        f"dataset.tokenizer={folder}, so that the dataset's numbers are the encoder's"
    )


def _words_in(folder: Path) -> int | None:
    """Words of the tokenizer in an encoder's folder; None where there is none."""
    loader = import_module("transformers").AutoTokenizer
    try:
        return len(loader.from_pretrained(str(folder), local_files_only=True))
    except (OSError, ValueError):
        return None


def longest_row(model: nn.Module) -> int | None:
    """Tokens that an encoder has positions for; None where it has no table of them.

    RoBERTa's table starts behind the number of its padding.
    """
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return None
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)

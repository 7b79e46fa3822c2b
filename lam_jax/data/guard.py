"""What a tokenizer must not do: give ids that have no embedding, or read typed text as tokens of the chat itself."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from lam_jax.data.schemas import DataError, Where
from lam_jax.models.config import BackboneConfig
from lam_jax.models.tokenizer import CHAT_TOKENS


def require_embedded(tokenizer: Any, config: BackboneConfig) -> None:
    """Refuses a tokenizer with ids beyond the embedding: looked up there they are NaN, or another token's row.

    An embedding with more rows than the tokenizer has ids is right: the published ones are padded. As in the released
    code and in transformers such rows are not cut off the logits; training has made them unlikely, and they decode to
    nothing.

    Raises:
        DataError: a token's id has no row.
    """
    rows = config.text.vocab_size
    where = Where(_file_of(tokenizer))
    expected = f"ids 0 to {rows - 1}, for the {rows} rows of the model's embedding (vocab_size in config.json)"
    fix = (
        "Use the tokenizer that belongs to the model, or resize the embedding in transformers "
        "(model.resize_token_embeddings(len(tokenizer))) and save it again."
    )
    beyond = sorted((number, token) for token, number in tokenizer.get_vocab().items() if number >= rows)
    if beyond:
        number, token = beyond[0]
        found = f"id {number} for {token!r}, the first of {len(beyond)} tokens beyond"
        raise DataError(where, None, found, expected, fix)


def _file_of(tokenizer: Any) -> str:
    folder = Path(str(getattr(tokenizer, "name_or_path", "") or ""))
    file = folder / "tokenizer.json"
    return str(file if file.is_file() else folder) if folder.name else "the tokenizer"


def guard(pieces: Tokenizer, config: BackboneConfig) -> None:
    """Makes `pieces` read the chat format's tokens as plain text where somebody typed them.

    That is so of tokens that tokenizer.json marks as special, and here of those too that it does not: the ids that the
    config names and the tokens of Qwen's chat format. Other added tokens that are not special (`<tool_call>`) stay
    whole tokens of ordinary text, as they are in the published models.
    """
    ids = [value for name, value in vars(config).items() if name.endswith(("_id", "_ids"))]
    named = {number for value in ids for number in (value if isinstance(value, tuple) else (value,))}
    typed = [
        AddedToken(token.content, special=True, normalized=token.normalized)
        for number, token in pieces.get_added_tokens_decoder().items()
        if not token.special and (number in named or token.content in CHAT_TOKENS)
    ]
    pieces.add_special_tokens(typed)
    pieces.encode_special_tokens = True

"""Text to token ids behind one small interface: SentencePiece models, read or trained, and the
tokenizer.json of Hugging Face checkpoints. Chat templates play no part."""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
import tokenizers

from speechdst.data.dialogue import BadInput
from speechdst.files import read_object, write_text

SPACE = "\u2581"  # how SentencePiece writes a space within its pieces
BYTE_SPACE = "\u0120"  # and how byte-level tokenizers do


class Tokenizer:
    """A SentencePiece model.

    `bos`, `eos` are token ids (one that has no bos begins texts with eos, which stood between
    the texts its model was trained on); `size`: one more than the largest id that text can have;
    `fingerprint` identifies the vocabulary.
    """

    def __init__(self, model: bytes):
        self.model = model
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.eos = self.processor.eos_id()
        if self.eos < 0:
            raise BadInput("the tokenizer has no end-of-sequence token",
                           mend="train it with eos_id")
        self.bos = self.processor.bos_id() if self.processor.bos_id() >= 0 else self.eos
        self.size = self.processor.vocab_size()
        self.fingerprint = hashlib.sha256(model).hexdigest()[:16]
        byte = [self.processor.piece_to_id(f"<0x{b:02X}>") for b in SPACE.encode()]
        self.literal_space = [] if self.processor.unk_id() in byte else byte

    @staticmethod
    def load(path: str | Path) -> "Tokenizer":
        """Of a SentencePiece model, of a tokenizer.json (with tokenizer_config.json or config.json
        beside it), or of a checkpoint's folder that has either.

        Raises:
          BadInput: there is none, it cannot be read, or it does not fit the folder's config.json.
        """
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        if path.is_dir():
            found = [path / n for n in ("tokenizer.json", "tokenizer.model") if (path / n).exists()]
            path = found[0] if found else path / "tokenizer.json"
        try:
            model = path.read_bytes()
        except FileNotFoundError:
            raise BadInput("no tokenizer there", file=path, mend="run `python -m speechdst.prepare`"
                           " with the same config, or download it with the checkpoint") from None
        if path.suffix == ".json":
            tokenizer = JsonTokenizer(model, *_special(path), file=path)
        else:
            try:
                if not model:  # which SentencePiece would take for a model of no pieces
                    raise RuntimeError("the file is empty")
                tokenizer = Tokenizer(model)
            except RuntimeError as error:
                raise BadInput(f"not a SentencePiece model ({error})", file=path) from error
        if (folder / "config.json").exists():
            check(tokenizer, _json(folder / "config.json"), path)
        return tokenizer

    def save(self, folder: Path) -> None:
        """Writes what `load(folder)` reads, in place of any other tokenizer there."""
        (folder / "tokenizer.model").write_bytes(self.model)
        (folder / "tokenizer.json").unlink(missing_ok=True)

    def encode(self, text: str) -> list[int]:
        """Ids of a text as it stands, without bos and eos; none of them can end an answer."""
        # A U+2581 of the text itself would come back as a space: it is spelled in bytes.
        first, *others = (self._ids(part) for part in (
            text.split(SPACE) if self.literal_space else [text]))
        return first + [i for ids in others for i in (*self.literal_space, *ids)]

    def words(self, text: str) -> list[int]:
        """Ids of what was said, every word with its leading space, as within running text."""
        return self.encode(" " + text) if text else []

    def characters(self, text: str) -> list[int]:
        """Ids of what was said, letter by letter; `decode` brings it back."""
        text = " " + text if text else ""
        ids = {c: self.encode(c) for c in set(text)}
        return [i for c in text for i in ids[c]]

    def decode(self, ids: Iterable[int]) -> str:
        # Embeddings may have rows behind the vocabulary, which are no token.
        return self.processor.decode([int(i) for i in ids if i < self.size])

    def begins_word(self, token: int) -> bool:
        """Whether there is a space before what a token stands for."""
        return self._piece(token).startswith((SPACE, BYTE_SPACE))

    def _piece(self, token: int) -> str:
        return self.processor.id_to_piece(token)

    def _ids(self, text: str) -> list[int]:
        return self.processor.encode(text)


class JsonTokenizer(Tokenizer):
    """A tokenizer.json; `bos`, `eos`: which of its tokens begin and end texts (ids or tokens),
    which the file itself does not say."""

    def __init__(self, model: bytes, bos: int | str | None, eos: int | str | None, file=""):
        self.model = model
        try:
            self.processor = tokenizers.Tokenizer.from_buffer(model)
        except Exception as error:  # the library raises nothing narrower
            raise BadInput(f"not a tokenizer.json ({error})", file=file) from error
        self.processor.no_padding()
        self.processor.no_truncation()
        # What was said or written never becomes a special token, so it cannot end an answer.
        self.processor.encode_special_tokens = True
        find = lambda x: self.processor.token_to_id(x) if isinstance(x, str) else x
        eos_id = find(eos)
        if eos_id is None or self.processor.id_to_token(eos_id) is None:
            raise BadInput(f"has no end-of-sequence token {eos!r}", file=file,
                           mend="put tokenizer_config.json or config.json of the checkpoint "
                           "beside it")
        self.eos = eos_id
        self.bos = eos_id if find(bos) is None else find(bos)
        special = {i for i, t in self.processor.get_added_tokens_decoder().items() if t.special}
        ids = set(self.processor.get_vocab(with_added_tokens=True).values()) - special
        self.size = 1 + max(*ids, self.bos, self.eos)
        self.fingerprint = hashlib.sha256(
            model + f"{self.bos} {self.eos}".encode()).hexdigest()[:16]
        byte = [find(f"<0x{b:02X}>") for b in SPACE.encode()]
        self.literal_space = [] if None in byte else byte

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_bytes(self.model)
        named = {f"{name}_token": self.processor.id_to_token(i)
                 for name, i in (("bos", self.bos), ("eos", self.eos))}
        write_text(folder / "tokenizer_config.json", json.dumps(named) + "\n")

    def decode(self, ids: Iterable[int]) -> str:
        return self.processor.decode([int(i) for i in ids], skip_special_tokens=False)

    def _piece(self, token: int) -> str:
        return self.processor.id_to_token(token)

    def _ids(self, text: str) -> list[int]:
        return self.processor.encode(text, add_special_tokens=False).ids


def _special(path: Path) -> list[int | str | None]:
    """bos and eos of a tokenizer.json, by the first of the files beside it that names them."""
    own = _json(path.with_name("tokenizer_config.json"))
    config = _json(path.with_name("config.json"))
    result: list[int | str | None] = []
    for name in ("bos", "eos"):
        token, number = own.get(f"{name}_token"), config.get(f"{name}_token_id")
        token = token.get("content") if isinstance(token, dict) else token
        number = number[0] if isinstance(number, list) and number else number
        result.append(number if token is None else token)
    return result


def _json(path: Path) -> dict:
    """The object in a file; empty if there is no such file."""
    return read_object(path) if path.exists() else {}


def check(tokenizer: Tokenizer, config: dict, file: str | Path) -> None:
    """Raises `BadInput` if the tokenizer is not of the model that a config.json describes: other
    special tokens, or ids that its embedding has no row for."""
    mend = "use the tokenizer of the checkpoint"
    values = {**(config.get("text_config") or {}), **config}
    for name, own in (("bos", tokenizer.bos), ("eos", tokenizer.eos)):
        given = values.get(f"{name}_token_id")
        known = given if isinstance(given, list) else [given]
        # A tokenizer without bos has eos in its place.
        if given is not None and own not in known and (name == "eos" or own != tokenizer.eos):
            raise BadInput(f"{name} is {own}, the model has {given}", file=file,
                           field=f"{name}_token_id", mend=mend)
    rows = values.get("vocab_size")
    if rows is not None and tokenizer.size > rows:
        raise BadInput(f"{tokenizer.size} tokens, the model has {rows}", file=file,
                       field="vocab_size", mend=mend)


def target_symbols(schema: dict[str, list[str]]) -> list[str]:
    """The pieces of the target JSON that never vary, so that each is one token."""
    slots = sorted({slot for names in schema.values() for slot in names})
    return [
        "USER:", "AGENT:", "\n", '{"label":"', '","domains":[', '],"slots":{', '","', '"},', '"}}}',
        "}}", '"',
        *(f'"{domain}"' for domain in schema),
        *(f'"{domain}":{{"' for domain in schema),
        *(f'{slot}":"' for slot in slots),
    ]


def train(texts: Iterable[str], symbols: list[str], size: int, control: Sequence[str] = ()
          ) -> bytes:
    """A BPE model with byte fallback over `texts`; the same input gives the same bytes.

    `symbols` become one token each; those of `control`, the first from id 3 on, are of no text, and
    nor is id 0. `size` is an upper bound: a small corpus may have fewer pieces than asked for.
    """
    out = io.BytesIO()
    # Symbols are matched against pieces, where a space is written otherwise.
    symbols = [s.replace(" ", SPACE) for s in symbols]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=out, model_type="bpe", vocab_size=size,
        hard_vocab_limit=False, byte_fallback=True, character_coverage=1.0, num_threads=1,
        user_defined_symbols=symbols, control_symbols=list(control),
        normalization_rule_name="identity",
        add_dummy_prefix=False, remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2, max_sentence_length=65536)
    return out.getvalue()

"""Text to token ids: SentencePiece models, read or trained, behind one small interface."""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from speechdst.data.dialogue import BadInput

SPACE = "\u2581"  # how SentencePiece writes a space within its pieces


class Tokenizer:
    """A SentencePiece model. `bos`, `eos` are token ids; `fingerprint` identifies the model."""

    def __init__(self, model: bytes):
        self.model = model
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.bos, self.eos = self.processor.bos_id(), self.processor.eos_id()
        if self.bos < 0 or self.eos < 0:
            raise BadInput("the tokenizer has no beginning- or end-of-sequence token",
                           mend="train it with bos_id and eos_id")
        self.size = self.processor.vocab_size()
        self.fingerprint = hashlib.sha256(model).hexdigest()[:16]
        self.literal_space = [self.processor.piece_to_id(f"<0x{b:02X}>") for b in SPACE.encode()]

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        try:
            model = Path(path).read_bytes()
            if not model:  # which SentencePiece would take for a model of no pieces
                raise RuntimeError("the file is empty")
            return cls(model)
        except FileNotFoundError:
            raise BadInput("no tokenizer there", file=path,
                           mend="run `python -m speechdst.prepare` with the same config") from None
        except RuntimeError as error:
            raise BadInput(f"not a SentencePiece model ({error})", file=path) from error

    def encode(self, text: str) -> list[int]:
        # A U+2581 of the text itself would come back as a space: it is spelled in bytes.
        first, *others = (self.processor.encode(part) for part in text.split(SPACE))
        return first + [i for ids in others for i in (*self.literal_space, *ids)]

    def words(self, text: str) -> list[int]:
        """Ids of what was said, every word with its leading space, as within running text."""
        return self.encode(" " + text) if text else []

    def decode(self, ids: Iterable[int]) -> str:
        return self.processor.decode([int(i) for i in ids])


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


def train(texts: Iterable[str], symbols: list[str], size: int) -> bytes:
    """A BPE model with byte fallback over `texts`; the same input gives the same bytes.

    `symbols` become one token each. `size` is an upper bound: a small corpus may have fewer
    pieces than asked for.
    """
    out = io.BytesIO()
    # Symbols are matched against pieces, where a space is written otherwise.
    symbols = [s.replace(" ", SPACE) for s in symbols]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=out, model_type="bpe", vocab_size=size,
        hard_vocab_limit=False, byte_fallback=True, character_coverage=1.0, num_threads=1,
        user_defined_symbols=symbols, normalization_rule_name="identity",
        add_dummy_prefix=False, remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2, max_sentence_length=65536)
    return out.getvalue()

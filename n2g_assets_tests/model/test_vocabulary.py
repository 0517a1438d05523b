import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from n2g_assets.core.tables import TABLES
from n2g_assets.method.tokens import display_text, normalise
from n2g_assets.model.tokens import Bos, SubjectTokenizer
from n2g_assets.model.vocabulary import build_vocabulary, vocabulary_from_rows, vocabulary_rows
from n2g_assets_tests.tiny_models import BOS, END, SENTENCES, VOCABULARY, save_tiny_tokenizer, tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tiny_tokenizer(folder)
    return SubjectTokenizer.load(folder, VOCABULARY)


def vocabulary(tokenizer, *, normalise=True, d_vocab=VOCABULARY):
    return build_vocabulary(tokenizer, d_vocab, normalise=normalise, bos_id=1, mask_id=0)


def sentencepiece_like():
    """What Llama 2 and Gemma have: U+2581 for a space, and bytes where the vocabulary has no character."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = [
        "<unk>",
        "<s>",
        *[f"<0x{byte:02X}>" for byte in range(256)],
        "▁",
        "a",
        "b",
        "T",
        "▁a",
        "▁T",
        "ab",
        "▁ab",
        "é",
    ]
    merges = [("▁", "a"), ("▁", "T"), ("a", "b"), ("▁a", "b")]
    model = models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>"])
    tokenizer.encode_special_tokens = True
    return SubjectTokenizer(None, tokenizer, len(pieces), Bos(1, "<s>", "it begins a text")), pieces


@given(text=st.text() | st.lists(st.sampled_from([*SENTENCES, END, BOS, "\n", " ", "Ġ", "é", "\u2581"])).map("".join))
def test_the_bytes_of_a_texts_tokens_are_the_texts_utf8(tokenizer, text):
    tokens = vocabulary(tokenizer).tokens
    assert b"".join(tokens[token_id] for token_id in tokenizer.encode([text])[0]) == text.encode()


@given(text=st.text(alphabet="ab Té\n\U0001f600x"))
def test_the_bytes_of_sentencepiece_tokens_are_the_texts_utf8(text):
    tokenizer, pieces = sentencepiece_like()
    tokens = vocabulary(tokenizer, d_vocab=len(pieces)).tokens
    assert b"".join(tokens[token_id] for token_id in tokenizer.encode([text])[0]) == text.encode()


def test_every_byte_is_a_token_of_the_byte_alphabet(tokenizer):
    tokens = vocabulary(tokenizer).tokens
    assert {bytes([byte]) for byte in range(256)} <= set(tokens)


def test_special_tokens_are_their_own_text(tokenizer):
    assert vocabulary(tokenizer).tokens[:2] == (END.encode(), BOS.encode())


@pytest.mark.parametrize("normalising", [True, False])
def test_ids_that_the_tokenizer_lacks_match_only_themselves(tokenizer, normalising):
    known = tiny_tokenizer().get_vocab_size()
    assert known < VOCABULARY
    vocab = vocabulary(tokenizer, normalise=normalising)
    assert vocab.tokens[known:] == (b"",) * (VOCABULARY - known)
    counts = np.bincount(vocab.form_of)
    assert (counts[vocab.form_of[known:]] == 1).all()
    assert all(vocab.form(token_id) for token_id in range(VOCABULARY))


def test_without_normalisation_tokens_match_by_their_bytes(tokenizer):
    vocab = vocabulary(tokenizer, normalise=False)
    known = tiny_tokenizer().get_vocab_size()
    assert [vocab.form(token_id) for token_id in range(known)] == list(vocab.tokens[:known])


def test_tokens_match_when_their_normalised_bytes_are_equal(tokenizer):
    vocab = vocabulary(tokenizer)
    known = tiny_tokenizer().get_vocab_size()
    normalised = [normalise(token) for token in vocab.tokens[:known]]
    assert [vocab.form(token_id) for token_id in range(known)] == normalised
    same = vocab.form_of[:known, None] == vocab.form_of[None, :known]
    slow = np.array([[a == b for b in normalised] for a in normalised])
    assert (same == slow).all()
    assert len(vocab.forms) < VOCABULARY, "some tokens share a form, or this test shows nothing"


@pytest.mark.parametrize(
    ("token", "form"),
    [
        (b" The", b"the"),
        (b"The", b"the"),
        (b" the", b"the"),
        (b"the", b"the"),
        (b"A", b"A"),
        (b" A", b"a"),
        (b" I", b"i"),
        (b" USA", b"USA"),
        (b"iPhone", b"iPhone"),
        (b" 12", b" 12"),
        (b" ", b" "),
        (b"\n\n", b"\n\n"),
        (b"\nif", b"if"),
        (b" \xc3\x89tat", "état".encode()),
        (b" \xe2\x80", b" \xe2\x80"),
        (b"\xff", b"\xff"),
        (b"", b""),
        (b" (x", b"(x"),
    ],
)
def test_normalisation_by_hand(token, form):
    assert normalise(token) == form


@given(st.binary(max_size=12) | st.text(max_size=6).map(str.encode))
def test_a_normalised_form_has_no_case_of_a_title_and_is_kept_when_it_is_no_text(token):
    form = normalise(token)
    try:
        text = token.decode()
    except UnicodeDecodeError:
        assert form == token
        return
    assert form.decode().casefold() in text.casefold() or not text.isascii()


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (b" the", "␣the"),
        (b"a\n\n", "a↵↵"),
        (b"\t", "⇥"),
        (b"\xe2\x80", "\\xe2\\x80"),
        ("é“".encode(), "é“"),
        (b"\x00\x1b[31m", "\\x00\\x1b[31m"),
        ("\u202ex".encode(), "\\u{202e}x"),
        (b"", "(empty)"),
    ],
)
def test_display_text_shows_what_cannot_be_seen(token, text):
    assert display_text(token) == text


@given(st.binary(max_size=12))
def test_display_text_is_always_printable(token):
    assert display_text(token).isprintable()


@pytest.mark.parametrize("normalising", [True, False])
def test_rows_are_those_of_the_table_and_give_the_vocabulary_back(tokenizer, normalising):
    vocab = vocabulary(tokenizer, normalise=normalising)
    rows = vocabulary_rows(vocab)
    schema = TABLES["vocabulary"].schema
    assert dict(rows.schema) == {name: kind for name, kind in schema.items() if name != "study"}
    assert (rows["text"].str.len_chars() > 0).all()
    back = vocabulary_from_rows(rows.sample(fraction=1, shuffle=True, seed=0), bos_id=1, mask_id=0)
    assert (back.tokens, back.forms, back.bos_id, back.mask_id) == (vocab.tokens, vocab.forms, 1, 0)
    assert (back.form_of == vocab.form_of).all()
    assert back.form_of.dtype == np.int32
    assert rows.filter(pl.col("token_id") == 1)["text"].item() == BOS

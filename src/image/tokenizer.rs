//! CLIP's tokenizer: a text to the ids of its byte pairs, of one length for every text.
//!
//! ```text
//! text ─ NFC, white space, lower case ─ words ─ bytes ─ merges ─► [BOS, …, EOS, PAD, …]
//! ```
//!
//! A word's last byte carries `</w>`; merges apply in the order of the list, first to last. Read from
//! `vocab.json` and `merges.txt`, or from the `tokenizer.json` that transformers 5 writes; the byte pairs
//! are those of the crate `tokenizers`. Sources: Sennrich et al. 2016; Radford et al. 2019 (bytes), 2021
//! (CLIP); transformers `models/clip/tokenization_clip.py`.

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{self, Lowercase, NFC, replace::ReplacePattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::merges;
use crate::tensors::files;
use crate::{Error, Result};

/// Beginning of a text.
pub(super) const BOS: &str = "<|startoftext|>";
/// End of a text; it also fills up, and stands for what is not in the vocabulary.
pub(super) const EOS: &str = "<|endoftext|>";
/// What ends a word.
pub(super) const END: &str = "</w>";
/// CLIP's length.
const LENGTH: usize = 77;
/// The most ids of one text.
const MOST: usize = 4096;
/// The most bytes of a vocabulary or a list of merges.
const MAX_BYTES: u64 = 32_000_000;
/// Words of CLIP: special tokens, English contractions, letters, single digits, all else.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// A text as ids, and what of it did not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// As many as [`Tokenizer::max_length`].
    pub ids: Vec<u32>,
    /// Ids of the text itself, without BOS, EOS and padding, before anything was cut off.
    pub count: usize,
    /// The end of the text that was cut off; empty if nothing was.
    pub cut: String,
}

/// The tokenizer of a folder, or one that was trained.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    vocab: BTreeMap<String, u32>,
    merges: Vec<(String, String)>,
    special: Special,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Special {
    bos: String,
    eos: String,
    pad: String,
    unk: String,
    max_length: usize,
}

/// A token by its text, or with options beside it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Text(String),
    Token { content: String },
}

/// What tokenizer_config.json and special_tokens_map.json say.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    bos_token: Option<Named>,
    eos_token: Option<Named>,
    pad_token: Option<Named>,
    unk_token: Option<Named>,
    model_max_length: Option<f64>,
}

impl Settings {
    fn read(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = files::read_text(path, MAX_BYTES)?;
        serde_json::from_str(&text).map_err(|e| Error::config(path, e.to_string()))
    }
}

impl Tokenizer {
    /// Opens the folder `dir`: `vocab.json` and `merges.txt`, or `tokenizer.json`; with
    /// `tokenizer_config.json` and `special_tokens_map.json` where they are there.
    ///
    /// # Errors
    /// When a file is missing, too long or not what its name says.
    pub fn open(dir: &Path) -> Result<Self> {
        let [vocab_path, merges_path, whole] =
            ["vocab.json", "merges.txt", "tokenizer.json"].map(|name| dir.join(name));
        let (vocab, merges) = if vocab_path.is_file() || !whole.is_file() {
            let text = files::read_text(&vocab_path, MAX_BYTES)?;
            let vocab = serde_json::from_str(&text)
                .map_err(|e| Error::config(&vocab_path, format!("expected ids by token: {e}")))?;
            (vocab, merges::parse(&files::read_text(&merges_path, MAX_BYTES)?, &merges_path)?)
        } else {
            parts(&whole)?
        };
        let config = Settings::read(&dir.join("tokenizer_config.json"))?;
        let map = Settings::read(&dir.join("special_tokens_map.json"))?;
        let named =
            |first: Option<Named>, second: Option<Named>, default: &str| match first.or(second) {
                Some(Named::Text(content) | Named::Token { content }) => content,
                None => default.to_owned(),
            };
        // "No limit" is written as 1e30.
        let max_length = match config.model_max_length {
            Some(length) if (3.0..=MOST as f64).contains(&length) => length as usize,
            Some(length) if length > MOST as f64 => LENGTH,
            None => LENGTH,
            Some(length) => {
                return Err(Error::config(
                    dir.join("tokenizer_config.json"),
                    format!("model_max_length: expected 3 to {MOST}, got {length}"),
                ));
            }
        };
        let special = Special {
            bos: named(config.bos_token, map.bos_token, BOS),
            eos: named(config.eos_token, map.eos_token, EOS),
            pad: named(config.pad_token, map.pad_token, EOS),
            unk: named(config.unk_token, map.unk_token, EOS),
            max_length,
        };
        Self::new(vocab, merges, special).map_err(|message| Error::config(dir, message))
    }

    /// Learns byte pairs from `captions`: the 256 bytes inside a word, the 256 that end one, at most so
    /// many merges as `vocab_size` leaves room for, and the two special tokens. So no text is unknown.
    /// Depends on the captions and on nothing else.
    ///
    /// # Errors
    /// [`Error::Range`] when there is no room for the bytes, or the length is not 3 to 4096.
    pub fn train(
        captions: impl IntoIterator<Item = impl AsRef<str>>,
        vocab_size: usize,
        max_length: usize,
    ) -> Result<Self> {
        if !(514..=1 << 20).contains(&vocab_size) {
            let expected = "514 (the bytes, and the special tokens) to 1048576";
            return Err(Error::range("tokenizer: vocab_size", expected, vocab_size as f64));
        }
        if !(3..=MOST).contains(&max_length) {
            let expected = format!("3 to {MOST}");
            return Err(Error::range("tokenizer: max_length", expected, max_length as f64));
        }
        let named = |name: &str| name.to_owned();
        let (bos, eos) = (named(BOS), named(EOS));
        let special = Special { bos, pad: eos.clone(), unk: eos.clone(), eos, max_length };
        let new = |merges: Vec<(String, String)>| {
            let vocab = merges::vocabulary(&merges);
            Self::new(vocab, merges, special.clone()).map_err(Error::Invalid)
        };
        let bytes = new(Vec::new())?;
        let mut words = BTreeMap::new();
        for caption in captions {
            for word in bytes.words(caption.as_ref())? {
                *words.entry(word).or_insert(0) += 1;
            }
        }
        new(merges::learn(words, vocab_size - 514))
    }

    fn new(
        vocab: BTreeMap<String, u32>,
        merges: Vec<(String, String)>,
        special: Special,
    ) -> Result<Self, String> {
        let text = |e: tokenizers::Error| e.to_string();
        let map: Vocab = vocab.iter().map(|(token, id)| (token.clone(), *id)).collect();
        let bpe = BPE::builder()
            .vocab_and_merges(map, merges.clone())
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix(END.to_owned())
            .unk_token(special.unk.clone());
        let mut inner = tokenizers::Tokenizer::new(bpe.build().map_err(text)?);
        let spaces = ReplacePattern::Regex(r"\s+".to_owned());
        let spaces = normalizers::Replace::new(spaces, " ").map_err(text)?;
        let normalizer =
            normalizers::Sequence::new(vec![NFC.into(), spaces.into(), Lowercase.into()]);
        inner.with_normalizer(Some(normalizer)).map_err(text)?;
        let pattern = SplitPattern::Regex(WORDS.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Removed, true).map_err(text)?;
        let bytes = ByteLevel::new(false, true, true);
        inner.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])));
        let names = [&special.bos, &special.eos, &special.pad, &special.unk];
        for name in names {
            if !vocab.contains_key(name) {
                return Err(format!(
                    "special token {name:?}: expected in the vocabulary, but missing"
                ));
            }
        }
        let tokens = names.map(|name| AddedToken::from(name.clone(), true).normalized(false));
        inner.add_special_tokens(tokens).map_err(text)?;
        Ok(Self { inner, vocab, merges, special })
    }

    /// Length of every encoded text.
    pub fn max_length(&self) -> usize {
        self.special.max_length
    }

    /// Shortens the encoded texts to `length`, where it is shorter: that of the text encoder.
    #[must_use]
    pub fn with_length_at_most(mut self, length: usize) -> Self {
        self.special.max_length = self.special.max_length.min(length.max(3));
        self
    }

    /// Number of ids: the largest and one.
    pub fn vocab_size(&self) -> usize {
        self.vocab.values().max().map_or(0, |id| *id as usize + 1)
    }

    /// The id of the token called `name`.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.vocab.get(name).copied()
    }

    /// Id of the end of a text.
    pub fn eos(&self) -> u32 {
        self.id(&self.special.eos).unwrap_or(0)
    }

    /// Id of the beginning of a text.
    pub fn bos(&self) -> u32 {
        self.id(&self.special.bos).unwrap_or(0)
    }

    /// Id of what fills up.
    pub fn pad(&self) -> u32 {
        self.id(&self.special.pad).unwrap_or(0)
    }

    /// BOS, as many ids of the text as fit, EOS, and padding.
    ///
    /// # Errors
    /// When the text cannot be split.
    pub fn tokens(&self, text: &str) -> Result<Tokens> {
        let encoding = self.inner.encode(text, false).map_err(|e| Error::Invalid(e.to_string()))?;
        let (ids, room) = (encoding.get_ids(), self.special.max_length - 2);
        let cut = match encoding.get_offsets().get(room) {
            Some((from, _)) => text.get(*from..).unwrap_or_default().to_owned(),
            None => String::new(),
        };
        let mut out = vec![self.bos()];
        out.extend(ids.iter().take(room));
        out.push(self.eos());
        out.resize(self.special.max_length, self.pad());
        Ok(Tokens { ids: out, count: ids.len(), cut })
    }

    /// The ids of [`Self::tokens`].
    ///
    /// # Errors
    /// As there.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokens(text)?.ids)
    }

    /// The words of a text, each as its bytes' tokens.
    fn words(&self, text: &str) -> Result<Vec<Vec<String>>> {
        let encoding = self.inner.encode(text, false).map_err(|e| Error::Invalid(e.to_string()))?;
        let (mut words, mut word) = (Vec::new(), Vec::new());
        for token in encoding.get_tokens() {
            word.push(token.clone());
            if token.ends_with(END) {
                words.push(std::mem::take(&mut word));
            }
        }
        Ok(words)
    }

    /// Writes the folder as transformers' `CLIPTokenizer` reads it: vocab.json, merges.txt,
    /// tokenizer_config.json, special_tokens_map.json.
    ///
    /// # Errors
    /// When the folder or a file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io(dir, e))?;
        let mut by_id: Vec<(&String, u32)> = self.vocab.iter().map(|(t, id)| (t, *id)).collect();
        by_id.sort_by_key(|(_, id)| *id);
        let vocab: IndexMap<&String, u32> = by_id.into_iter().collect();
        let Special { bos, eos, pad, unk, max_length } = &self.special;
        let map = serde_json::json!({
            "bos_token": bos, "eos_token": eos, "pad_token": pad, "unk_token": unk,
        });
        let mut config = map.clone();
        config["add_prefix_space"] = false.into();
        config["do_lower_case"] = true.into();
        config["errors"] = "replace".into();
        config["model_max_length"] = (*max_length).into();
        config["tokenizer_class"] = "CLIPTokenizer".into();
        let json = |value: &Value| format!("{value:#}\n");
        let vocab = serde_json::to_string(&vocab).map_err(|e| Error::Invalid(e.to_string()))?;
        for (name, text) in [
            ("vocab.json", vocab),
            ("merges.txt", merges::print(&self.merges)),
            ("tokenizer_config.json", json(&config)),
            ("special_tokens_map.json", json(&map)),
        ] {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|e| Error::io(path, e))?;
        }
        Ok(())
    }
}

/// What tells a CLIP tokenizer from others, not its thousands of tokens.
impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("merges", &self.merges.len())
            .field("special", &self.special)
            .finish()
    }
}

/// Vocabulary and merges of a tokenizer.json; all else in it is CLIP's own.
#[expect(clippy::type_complexity, reason = "the two parts of a tokenizer")]
fn parts(path: &Path) -> Result<(BTreeMap<String, u32>, Vec<(String, String)>)> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Merge {
        Pair(String, String),
        Line(String),
    }
    #[derive(Deserialize)]
    struct Model {
        #[serde(rename = "type")]
        kind: Option<String>,
        vocab: BTreeMap<String, u32>,
        merges: Vec<Merge>,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    #[derive(Deserialize)]
    struct Whole {
        model: Model,
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    let text = files::read_text(path, MAX_BYTES)?;
    let fail = |message: String| Error::config(path, message);
    let Whole { model, added_tokens } =
        serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
    if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return Err(fail(format!("model: expected byte pairs (BPE), got {:?}", model.kind)));
    }
    let mut vocab = model.vocab;
    for Added { id, content } in added_tokens {
        vocab.entry(content).or_insert(id);
    }
    let pair = |(i, merge)| match merge {
        Merge::Pair(a, b) => Ok((a, b)),
        Merge::Line(line) => merges::pair(&line).map_err(|e| fail(format!("merge {i}: {e}"))),
    };
    Ok((vocab, model.merges.into_iter().enumerate().map(pair).collect::<Result<_>>()?))
}

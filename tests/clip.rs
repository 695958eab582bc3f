//! CLIP's tokenizer and text encoder against transformers' own, and the tokenizer that is trained here.
//!
//! tests/golden/pictures/make.py read the folders with transformers and recorded ids and states. The
//! trained tokenizer's folder was written by `the_trained_tokenizer_is_the_recorded_one` with
//! PATHLINE_WRITE set, and then read by transformers.
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use pathline::image::Tokenizer;
use pathline::nn::clip::{ClipActivation, ClipTextConfig, ClipTextEncoder, with_prefix};
use pathline::nn::params::Params;
use pathline::tensors::{self, weights::Weights};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pictures").join(name)
}

fn recorded() -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden("text.json")).unwrap()).unwrap()
}

const CAPTIONS: [&str; 24] = [
    "red apple",
    "green apple",
    "red heart",
    "green heart",
    "blue heart",
    "yellow heart",
    "grinning face",
    "grinning face with big eyes",
    "smiling face with smiling eyes",
    "face with tears of joy",
    "woman firefighter",
    "man firefighter",
    "woman firefighter: medium skin tone",
    "man firefighter: medium-dark skin tone",
    "keycap: 10",
    "flag: Côte d’Ivoire",
    "person in suit levitating: light skin tone",
    "couple with heart: woman, man",
    "face with medical mask",
    "red circle",
    "green circle",
    "blue circle",
    "o'clock: the hand's at five",
    "Japanese “here” button ココ",
];

#[test]
fn the_trained_tokenizer_is_the_recorded_one() {
    let trained = Tokenizer::train(CAPTIONS, 600, 16).unwrap();
    assert!((570..=600).contains(&trained.vocab_size()), "{}", trained.vocab_size());
    if std::env::var_os("PATHLINE_WRITE").is_some() {
        trained.save(&golden("tokenizer")).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    trained.save(dir.path()).unwrap();
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"] {
        let [ours, committed] = [dir.path().join(name), golden("tokenizer").join(name)];
        assert_eq!(std::fs::read(ours).unwrap(), std::fs::read(committed).unwrap(), "{name}");
    }
    // Each caption in one piece a word, none unknown.
    for caption in CAPTIONS {
        let tokens = trained.tokens(caption).unwrap();
        let text = &tokens.ids[1..=tokens.count.min(14)];
        assert!(text.iter().all(|id| *id < trained.bos()), "{caption}");
    }
    assert_eq!(trained.tokens("red apple").unwrap().count, 2);
}

#[test]
fn ids_are_those_of_transformers() {
    let recorded = recorded();
    let mut count = 0;
    for (folder, texts) in recorded["ids"].as_object().unwrap() {
        let tokenizer = Tokenizer::open(&golden(folder)).unwrap();
        for (text, ids) in texts.as_object().unwrap() {
            let want: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), want, "{folder}: {text:?}");
            count += 1;
        }
    }
    println!("{count} texts");
    assert!(count > 30);
}

#[test]
fn what_is_cut_off_is_reported() {
    let tokenizer = Tokenizer::open(&golden("tokenizer")).unwrap();
    let short = tokenizer.tokens("red apple").unwrap();
    assert_eq!((short.cut.as_str(), short.count, short.ids.len()), ("", 2, 16));
    let long = tokenizer.tokens(&"red apple ".repeat(9)).unwrap();
    assert_eq!((long.cut.as_str(), long.count), ("red apple red apple ", 18));
    assert_eq!((long.ids[15], long.ids[14]), (tokenizer.eos(), long.ids[2]));
}

fn worst(ours: &Tensor, theirs: &Tensor) -> f64 {
    assert_eq!(ours.dims(), theirs.dims());
    let numbers = |x: &Tensor| {
        x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    let (ours, theirs) = (numbers(ours), numbers(theirs));
    let size = theirs.iter().fold(0f64, |m, x| m.max(x.abs()));
    let gap = ours.iter().zip(&theirs).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
    assert!(gap.is_finite());
    gap / size
}

#[test]
fn states_are_those_of_transformers() {
    let states = tensors::load(&golden("text.safetensors"), &Device::Cpu).unwrap();
    let mut largest = 0f64;
    for folder in ["sd1", "sd2"] {
        let dir = golden(folder).join("text_encoder");
        let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
        let config: ClipTextConfig = serde_json::from_str(&text).unwrap();
        let stem = if folder == "sd1" { "model" } else { "model.fp16" };
        let weights = Weights::open_named(&dir, stem).unwrap().rename(with_prefix).unwrap();
        let encoder = weights.load(&Device::Cpu, |vb| ClipTextEncoder::load(&config, vb)).unwrap();
        let ids = states[&format!("{folder}.ids")].to_dtype(DType::U32).unwrap();
        let out = encoder.forward(&ids).unwrap();
        let skipped = encoder.skipped(&out, 1).unwrap();
        for (name, ours) in [
            ("last_hidden_state", &out.last_hidden_state),
            ("penultimate", &out.hidden_states[out.hidden_states.len() - 2]),
            ("clip_skip", &skipped),
            ("pooled", &out.pooled),
        ] {
            let gap = worst(ours, &states[&format!("{folder}.{name}")]);
            println!("{folder} {name}: {gap:.1e}");
            largest = largest.max(gap);
        }
        // Broken twins: the other activation, and the states of another layer.
        let other = match config.hidden_act {
            ClipActivation::QuickGelu => ClipActivation::Gelu,
            _ => ClipActivation::QuickGelu,
        };
        let wrong = ClipTextConfig { hidden_act: other, ..config.clone() };
        let wrong = weights.load(&Device::Cpu, |vb| ClipTextEncoder::load(&wrong, vb)).unwrap();
        let wrong = wrong.forward(&ids).unwrap().last_hidden_state;
        assert!(worst(&wrong, &states[&format!("{folder}.last_hidden_state")]) > 1e-3);
        assert!(worst(&skipped, &states[&format!("{folder}.last_hidden_state")]) > 1e-2);
        assert!(encoder.skipped(&out, 9).unwrap_err().to_string().contains("clip_skip"));
    }
    assert!(largest < 2e-6, "{largest:e}");
}

#[test]
fn a_token_sees_only_what_came_before_and_no_other_text() {
    let config = tiny();
    let params = Params::new(3);
    let encoder = ClipTextEncoder::load(&config, params.builder(&Device::Cpu)).unwrap();
    let texts = [vec![1, 5, 6, 7, 10, 10], vec![1, 9, 8, 10, 10, 10], vec![1, 5, 6, 11, 10, 10]];
    let all = encoder.forward(&encoder.ids(&texts, &Device::Cpu).unwrap()).unwrap();
    let rows = all.last_hidden_state.to_vec3::<f32>().unwrap();
    for (i, text) in texts.iter().enumerate() {
        let alone = encoder.ids(std::slice::from_ref(text), &Device::Cpu).unwrap();
        let alone = encoder.forward(&alone).unwrap().last_hidden_state.to_vec3::<f32>().unwrap();
        assert_eq!(alone[0], rows[i], "text {i}");
    }
    assert_eq!(rows[0][..3], rows[2][..3]);
    assert_ne!(rows[0][3], rows[2][3]);
    let pooled = all.pooled.to_vec2::<f32>().unwrap();
    assert_eq!((&pooled[0], &pooled[1]), (&rows[0][4], &rows[1][3]));
    let wrong = |texts: &[Vec<u32>]| encoder.ids(texts, &Device::Cpu).unwrap_err().to_string();
    assert!(wrong(&[vec![12]]).contains("the 12 tokens of its vocabulary"));
    assert!(wrong(&[vec![1; 7]]).contains("from 1 to 6"));
    assert!(wrong(&[vec![1, 2], vec![1]]).contains("one length"));
}

fn tiny() -> ClipTextConfig {
    ClipTextConfig {
        vocab_size: 12,
        hidden_size: 8,
        intermediate_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        max_position_embeddings: 6,
        eos_token_id: 10,
        ..ClipTextConfig::default()
    }
}

#[test]
fn every_parameter_gets_a_gradient() {
    for hidden_act in [ClipActivation::QuickGelu, ClipActivation::Gelu, ClipActivation::GeluNew] {
        let config = ClipTextConfig { hidden_act, ..tiny() };
        let params = Params::new(5);
        let encoder = ClipTextEncoder::load(&config, params.builder(&Device::Cpu)).unwrap();
        let texts = [vec![0, 1, 2, 3, 4, 11], vec![5, 6, 7, 8, 9, 10]];
        let out = encoder.forward(&encoder.ids(&texts, &Device::Cpu).unwrap()).unwrap();
        // Not a plain sum: that of a normalised row does not change.
        let target = Tensor::arange(0f32, 96.0, &Device::Cpu).unwrap().sin().unwrap();
        let target = target.reshape((2, 6, 8)).unwrap();
        let loss = (out.last_hidden_state * target).unwrap().sqr().unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        for (name, var) in params.named() {
            let grad = grads.get(&var).unwrap_or_else(|| panic!("{name}: no gradient"));
            let size = grad.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            // Adding a constant to all scores changes nothing: the keys' bias has none.
            let is_free = name.ends_with("k_proj.bias");
            assert!(size.is_finite() && (size > 0.0 || is_free), "{name}: {size}");
        }
        assert_eq!(params.named().len(), 2 + 2 * 16 + 2);
    }
}

#[test]
fn wrong_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = |dir: &Path| Tokenizer::open(dir).unwrap_err().to_string();
    assert!(error(dir.path()).contains("vocab.json"));
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("vocab.json", r#"{"a": 0, "b": 1}"#);
    assert!(error(dir.path()).contains("merges.txt"));
    write("merges.txt", "#version: 0.2\na c\n");
    assert!(error(dir.path()).contains("Token `c` out of vocabulary"), "{}", error(dir.path()));
    write("merges.txt", "a\n");
    assert!(error(dir.path()).contains("line 1"));
    write("merges.txt", "");
    assert!(error(dir.path()).contains("<|startoftext|>"), "{}", error(dir.path()));
    write("tokenizer_config.json", r#"{"model_max_length": 1}"#);
    assert!(error(dir.path()).contains("model_max_length"));
    write("vocab.json", "[]");
    assert!(error(dir.path()).contains("vocab.json"));
    for (size, length, named) in [(513, 16, "vocab_size"), (600, 2, "max_length")] {
        let error = Tokenizer::train(["a"], size, length).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    let configs = [
        ("num_attention_heads", ClipTextConfig { num_attention_heads: 3, ..tiny() }),
        ("vocab_size", ClipTextConfig { vocab_size: 0, ..tiny() }),
        ("use_attention_mask", ClipTextConfig { use_attention_mask: true, ..tiny() }),
        ("layer_norm_eps", ClipTextConfig { layer_norm_eps: 0.0, ..tiny() }),
    ];
    for (named, config) in configs {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    let error = serde_json::from_str::<ClipTextConfig>(r#"{"hidden_act":"relu"}"#).unwrap_err();
    assert!(error.to_string().contains("quick_gelu"), "{error}");
}

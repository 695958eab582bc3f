//! Parity of the autoencoders with diffusers, their gradients, and that they learn.
//! The golden file is written by tests/golden/vae.py.

#![allow(clippy::print_stdout, reason = "a test says how close it came")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use pathline::tensors;
use pathline::vae::discriminator::{
    Discriminator, DiscriminatorConfig, Norm, discriminator_loss, generator_loss,
};
use pathline::vae::{Autoencoder, AutoencoderConfig, AutoencoderKl, Beta, Tiling, VqModel};
use serde::Deserialize;
use tempfile::TempDir;

#[path = "support/formula.rs"]
mod formula;

/// What the golden file says of a network.
#[derive(Deserialize)]
struct Case {
    config: serde_json::Value,
    keys: BTreeMap<String, Vec<usize>>,
    x: Vec<usize>,
    z: Vec<usize>,
    tiled: Option<(Vec<usize>, Vec<usize>)>,
}

/// What it says of a discriminator.
#[derive(Deserialize)]
struct Patches {
    keys: BTreeMap<String, Vec<usize>>,
    x: Vec<usize>,
}

struct Golden {
    tensors: HashMap<String, Tensor>,
    cases: serde_json::Value,
}

impl Golden {
    fn open() -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vae.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let text = &header.metadata().as_ref().unwrap()["golden"];
        Self {
            tensors: tensors::load(&path, &Device::Cpu).unwrap(),
            cases: serde_json::from_str(text).unwrap(),
        }
    }

    fn case(&self, name: &str) -> Case {
        serde_json::from_value(self.cases[name].clone()).unwrap()
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }
}

/// Offset and scale of the weight `name`, as in the script.
fn rule(name: &str, shape: &[usize]) -> (f32, f32) {
    match shape {
        [_, dim] if name == "quantize.embedding.weight" => (0.0, (3.0 / *dim as f64).sqrt() as f32),
        [_, inputs @ ..] if !inputs.is_empty() => {
            (0.0, (6.0 / inputs.iter().product::<usize>() as f64).sqrt() as f32)
        }
        _ if name.ends_with("weight") => (0.6, 0.4),
        _ => (0.0, 0.3),
    }
}

/// The weights of a case, under the names that diffusers gave them.
fn weights(name: &str, keys: &BTreeMap<String, Vec<usize>>) -> HashMap<String, Tensor> {
    let tensor = |(key, shape): (&String, &Vec<usize>)| {
        let (offset, scale) = rule(key, shape);
        (key.clone(), formula::tensor(&format!("{name}/{key}"), shape, offset, scale))
    };
    keys.iter().map(tensor).collect()
}

/// A folder as diffusers writes it.
fn folder(config: &serde_json::Value, weights: &HashMap<String, Tensor>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let path = dir.path().join("diffusion_pytorch_model.safetensors");
    tensors::save(weights, &path).unwrap();
    dir
}

fn open(name: &str, golden: &Golden) -> Autoencoder {
    let case = golden.case(name);
    let dir = folder(&case.config, &weights(name, &case.keys));
    Autoencoder::open(dir.path(), &Device::Cpu).unwrap()
}

fn kl(name: &str, golden: &Golden) -> AutoencoderKl {
    match open(name, golden) {
        Autoencoder::Kl(net) => net,
        other => panic!("{other:?}"),
    }
}

fn vq(name: &str, golden: &Golden) -> VqModel {
    match open(name, golden) {
        Autoencoder::Vq(net) => net,
        other => panic!("{other:?}"),
    }
}

/// The weights of a VQModel with a codebook that is trained, and the codebook.
fn trained(case: &Case, name: &str) -> (VarBuilder<'static>, Var) {
    let mut tensors = weights(name, &case.keys);
    let codebook = Var::from_tensor(&tensors["quantize.embedding.weight"]).unwrap();
    tensors.insert("quantize.embedding.weight".to_owned(), codebook.as_tensor().clone());
    (VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu), codebook)
}

fn picture(name: &str, shape: &[usize]) -> Tensor {
    formula::tensor(name, shape, 0.0, 1.0)
}

fn latent(name: &str, shape: &[usize]) -> Tensor {
    formula::tensor(name, shape, 0.0, 2.0)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn largest(tensor: &Tensor) -> f64 {
    values(tensor).into_iter().map(f64::abs).fold(0.0, f64::max)
}

/// Largest difference, relative to the largest number.
fn error(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.dims(), want.dims());
    largest(&(got - want).unwrap()) / largest(want)
}

/// Errors by name, of which none may exceed `bound`.
fn close(errors: &[(&str, f64)], bound: f64) {
    let lines: Vec<String> =
        errors.iter().map(|(what, error)| format!("{what} {error:.1e}")).collect();
    println!("{}", lines.join(", "));
    assert!(errors.iter().all(|(_, error)| *error <= bound), "{lines:?}");
}

/// Measured: at most 8e-7, of numbers that diffusers computed in f64.
const BOUND: f64 = 2e-6;

#[test]
fn posterior_and_pictures_are_those_of_diffusers() {
    let golden = Golden::open();
    for name in ["kl", "kl-deep", "kl-attention", "kl-flat"] {
        let (net, case) = (kl(name, &golden), golden.case(name));
        let posterior = net.encode(&picture(&format!("{name}/x"), &case.x)).unwrap();
        let decoded = net.decode(&latent(&format!("{name}/z"), &case.z)).unwrap();
        let want = |key: &str| golden.get(&format!("{name}/{key}"));
        let mut errors = vec![
            ("mean", error(&posterior.mean, want("mean"))),
            ("logvar", error(&posterior.logvar, want("logvar"))),
            ("kl", error(&posterior.kl().unwrap(), want("kl"))),
            ("decode", error(&decoded, want("decode"))),
        ];
        if let Some((x, z)) = &case.tiled {
            let pixels = case.config["sample_size"].as_u64().unwrap() as usize;
            let tiling = Tiling::of(pixels, net.downsampling());
            let x = picture(&format!("{name}/tiled/x"), x);
            let z = latent(&format!("{name}/tiled/z"), z);
            let posterior = net.encode_tiled(&x, &tiling).unwrap();
            let decoded = net.decode_tiled(&z, &tiling).unwrap();
            errors.push(("mean, tiled", error(&posterior.mean, want("tiled/mean"))));
            errors.push(("logvar, tiled", error(&posterior.logvar, want("tiled/logvar"))));
            errors.push(("decode, tiled", error(&decoded, want("tiled/decode"))));
            // In one piece it is another picture: the tiles are really tiles.
            assert!(error(&net.decode(&z).unwrap(), want("tiled/decode")) > 1e-3);
        }
        close(&errors, BOUND);
    }
}

#[test]
fn codebooks_are_those_of_diffusers() {
    let golden = Golden::open();
    for name in ["vq", "vq-attention"] {
        let (net, case) = (vq(name, &golden), golden.case(name));
        let want = |key: &str| golden.get(&format!("{name}/{key}"));
        let h = net.encode(&picture(&format!("{name}/x"), &case.x)).unwrap();
        let z = latent(&format!("{name}/z"), &case.z);
        let leaf = Var::from_tensor(&z).unwrap();
        let quantized = net.quantize(&leaf).unwrap();
        let indices = quantized.indices.flatten_all().unwrap();
        assert_eq!(values(&indices), values(want("indices")));
        let mut errors = vec![
            ("h", error(&h, want("h"))),
            ("z_q", error(&quantized.z_q, want("z_q"))),
            ("loss", error(&quantized.loss, want("legacy/loss"))),
            ("decode", error(&net.decode(&z).unwrap(), want("decode"))),
        ];
        // The two forms have one value; what they differ in is the gradients.
        let mut codebook_of = |form: Beta, key: &'static str| {
            let params = trained(&case, name);
            let net = VqModel::load(&net.config, params.0).unwrap();
            let quantized = net.quantize(&leaf).unwrap();
            let loss = quantized.loss_with(0.25, form).unwrap();
            let grads = loss.backward().unwrap();
            let by_codebook = grads.get(&params.1).unwrap();
            let want = |what: &str| golden.get(&format!("{name}/{key}/{what}"));
            errors.push((key, error(&loss, want("loss"))));
            errors.push(("by z", error(grads.get(&leaf).unwrap(), want("by_z"))));
            errors.push(("by codebook", error(by_codebook, want("by_codebook"))));
            by_codebook.clone()
        };
        codebook_of(Beta::Legacy, "legacy");
        let paper = codebook_of(Beta::Paper, "paper");
        close(&errors, BOUND);
        // The broken twin: β at the other term.
        assert!(error(&paper, want("legacy/by_codebook")) > 1.0);
        let mut counts = BTreeMap::<u32, usize>::new();
        let indices = indices.to_vec1::<u32>().unwrap();
        indices.iter().for_each(|i| *counts.entry(*i).or_default() += 1);
        assert_eq!(quantized.used, counts.len());
        assert!(quantized.used > 4, "a codebook of which little is used proves little");
        let share = |count: &usize| *count as f64 / indices.len() as f64;
        let perplexity: f64 = counts.values().map(|c| -share(c) * share(c).ln()).sum();
        assert!((quantized.perplexity - perplexity.exp()).abs() < 1e-9);
    }
}

#[test]
fn tiny_autoencoders_are_those_of_diffusers() {
    let golden = Golden::open();
    for name in ["tiny", "tiny-silu"] {
        let Autoencoder::Tiny(net) = open(name, &golden) else { panic!("{name}") };
        let case = golden.case(name);
        let latents = net.encode(&picture(&format!("{name}/x"), &case.x)).unwrap();
        let decoded = net.decode(&latent(&format!("{name}/z"), &case.z)).unwrap();
        let want = |key: &str| golden.get(&format!("{name}/{key}"));
        close(
            &[
                ("latents", error(&latents, want("latents"))),
                ("decode", error(&decoded, want("decode"))),
            ],
            BOUND,
        );
    }
}

/// The attention's older names, and its weights as 1×1 convolutions, are the same network.
#[test]
fn older_names_and_shapes_of_the_attention_are_read() {
    let golden = Golden::open();
    for name in ["kl", "kl-attention", "vq-attention"] {
        let case = golden.case(name);
        let old = |(key, tensor): (String, Tensor)| {
            let projection = key.contains("attentions") && !key.contains("group_norm");
            let tensor = match tensor.dims() {
                [out, input] if projection => tensor.reshape((*out, *input, 1, 1)).unwrap(),
                _ => tensor,
            };
            let names =
                [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
            (names.iter().fold(key, |key, (new, old)| key.replace(new, old)), tensor)
        };
        let tensors: HashMap<String, Tensor> =
            weights(name, &case.keys).into_iter().map(old).collect();
        assert!(tensors.keys().any(|key| key.ends_with("proj_attn.weight")));
        let dir = folder(&case.config, &tensors);
        let net = Autoencoder::open(dir.path(), &Device::Cpu).unwrap();
        let x = picture(&format!("{name}/x"), &case.x);
        let today = open(name, &golden).encode(&x, None).unwrap();
        assert_eq!(values(&net.encode(&x, None).unwrap()), values(&today));
    }
}

/// What is written is what was read, in every key; and a scaled latent is what the factors say.
#[test]
fn folders_are_written_as_they_were_read() {
    let golden = Golden::open();
    for (name, scale, shift) in [
        ("kl-deep", 1.5, 0.25),
        ("kl-flat", 0.18215, 0.0),
        ("vq-attention", 0.5, 0.0),
        ("tiny", 1.0, 0.0),
    ] {
        let case = golden.case(name);
        let (dir, net) = (tempfile::tempdir().unwrap(), open(name, &golden));
        net.config().save(dir.path(), &weights(name, &case.keys)).unwrap();
        let text = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
        let mut written: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut read = case.config.clone();
        if name == "tiny" {
            // diffusers adds it for older versions.
            read.as_object_mut().unwrap().remove("block_out_channels").unwrap();
        }
        for config in [&mut written, &mut read] {
            assert_eq!(
                config.as_object_mut().unwrap().remove("_diffusers_version").unwrap(),
                "0.42.1"
            );
            if name == "tiny" {
                config["latent_magnitude"] = config["latent_magnitude"].as_f64().unwrap().into();
            }
        }
        assert_eq!(written, read);
        let again = Autoencoder::open(dir.path(), &Device::Cpu).unwrap();
        assert_eq!(again.config(), net.config());
        let config = AutoencoderConfig::open(dir.path()).unwrap();
        assert_eq!(config.latent_channels(), net.latent_channels());
        let x = picture(&format!("{name}/x"), &case.x);
        let latents = again.encode(&x, None).unwrap();
        let z = match &net {
            Autoencoder::Kl(net) => net.encode(&x).unwrap().mode(),
            Autoencoder::Vq(net) => net.encode(&x).unwrap(),
            Autoencoder::Tiny(net) => net.encode(&x).unwrap(),
            _ => unreachable!(),
        };
        let expected = ((z.clone() - shift).unwrap() * scale).unwrap();
        assert!(error(&latents, &expected) < 1e-6);
        let decoded = match &net {
            Autoencoder::Kl(net) => net.decode(&z).unwrap(),
            Autoencoder::Vq(net) => net.decode(&z).unwrap(),
            Autoencoder::Tiny(net) => net.decode(&z).unwrap(),
            _ => unreachable!(),
        };
        assert!(error(&again.decode(&latents).unwrap(), &decoded) < 1e-5);
    }
}

#[test]
fn patches_are_judged_as_by_torch() {
    let golden = Golden::open();
    for (name, norm) in [("batch", Norm::Batch), ("group", Norm::Group), ("none", Norm::None)] {
        let name = format!("patch-{name}");
        let case: Patches = serde_json::from_value(golden.cases[&name].clone()).unwrap();
        let config = DiscriminatorConfig { channels: 3, layers: 2, ndf: 6, norm };
        let vb = VarBuilder::from_tensors(weights(&name, &case.keys), DType::F32, &Device::Cpu);
        let net = Discriminator::load(&config, vb).unwrap();
        let logits = net.forward(&picture(&format!("{name}/x"), &case.x)).unwrap();
        let (real, fake) = (logits.get(0).unwrap(), logits.get(1).unwrap());
        let want = |key: &str| golden.get(&format!("{name}/{key}"));
        close(
            &[
                ("logits", error(&logits, want("logits"))),
                ("hinge", error(&discriminator_loss(&real, &fake).unwrap(), want("hinge"))),
                ("generator", error(&generator_loss(&fake).unwrap(), want("generator"))),
            ],
            BOUND,
        );
    }
}

/// Whole, in tiles and picture by picture it is the same network.
#[test]
fn any_autoencoder_decodes_in_tiles() {
    let golden = Golden::open();
    for name in ["kl", "kl-flat", "vq", "tiny"] {
        let (net, case) = (open(name, &golden), golden.case(name));
        let latents = latent(&format!("{name}/z"), &case.z);
        let (whole, tiled) = (net.decode(&latents).unwrap(), net.decode_tiled(&latents).unwrap());
        assert_eq!(whole.dims(), tiled.dims());
        // These latents fit one tile.
        assert!(error(&tiled, &whole) < 1e-6, "{name}");
    }
    // A picture of a batch is the same alone, to the bit.
    let net = open("kl", &golden);
    let latents = latent("kl/z", &golden.case("kl").z);
    let whole = net.decode(&latents).unwrap();
    let alone = net.decode(&latents.narrow(0, 1, 1).unwrap()).unwrap();
    assert_eq!(values(&alone), values(&whole.narrow(0, 1, 1).unwrap()));
}

#[test]
fn what_does_not_fit_is_one_clear_error() {
    let golden = Golden::open();
    let case = golden.case("kl");
    let all = weights("kl", &case.keys);
    let open = |config: &serde_json::Value, weights: &HashMap<String, Tensor>| {
        let dir = folder(config, weights);
        Autoencoder::open(dir.path(), &Device::Cpu).unwrap_err().to_string()
    };
    let mut other = case.config.clone();
    other["block_out_channels"] = serde_json::json!([8, 32]);
    assert!(open(&other, &all).contains("of another shape"));
    other["_class_name"] = "VQModel".into();
    assert!(open(&other, &all).contains("quantize.embedding.weight"));
    other["_class_name"] = "AutoencoderKLWan".into();
    assert!(open(&other, &all).contains("AutoencoderKL, VQModel or AutoencoderTiny"));
    let mut fewer = all.clone();
    fewer.remove("decoder.conv_out.bias");
    assert!(open(&case.config, &fewer).contains("1 missing"));
    let empty = tempfile::tempdir().unwrap();
    let error = Autoencoder::open(empty.path(), &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");

    let net = kl("kl", &golden);
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for shape in [&[1, 4, 8, 8][..], &[1, 3, 1, 8], &[1, 3, 8, 0], &[0, 3, 8, 8], &[3, 8, 8]] {
        let error = net.encode(&zeros(shape)).unwrap_err().to_string();
        assert!(error.contains("[b, 3, h, w] with at least 2×2 pixels"), "{error}");
    }
    let error = net.decode(&zeros(&[1, 3, 8, 8])).unwrap_err().to_string();
    assert!(error.contains("latents: expected") && error.contains("[b, 4, h, w]"), "{error}");
    let vq = vq("vq", &golden);
    assert!(vq.quantize(&zeros(&[1, 4, 2, 2])).is_err());
    let net = Autoencoder::Kl(net);
    assert!(net.encode(&zeros(&[1, 3, 8, 8]), Some(&zeros(&[1, 4, 8, 8]))).is_err());
}

//! Autoencoders learn: every parameter of every network receives its gradient, the codebook passes
//! gradients straight through, the losses are what their sources say, and one batch is learned by heart.

#![allow(clippy::print_stdout, reason = "a test says how close it came")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use candle_core::{D, DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use pathline::Result;
use pathline::nn::params::Params;
use pathline::train::optimizer::{AdamW, OptimizerConfig};
use pathline::vae::discriminator::{
    Discriminator, DiscriminatorConfig, LAST_WEIGHT, Norm, adaptive_weight, adaptive_weight_at,
    discriminator_loss, generator_loss, join,
};
use pathline::vae::features::{FeatureNet, FeatureNetConfig};
use pathline::vae::loss::{Distance, kl, nll, perceptual, reconstruction, weighted_perceptual};
use pathline::vae::{
    AutoencoderKl, AutoencoderKlConfig, AutoencoderTiny, AutoencoderTinyConfig, Beta, DownBlock,
    UpBlock, VqModel, VqModelConfig,
};

#[path = "support/slopes.rs"]
mod slopes;
use slopes::{faults, normal, randomised, values};

fn double(vars: &VarMap) -> VarBuilder<'static> {
    VarBuilder::from_varmap(vars, DType::F64, &Device::Cpu)
}

fn kl_config() -> AutoencoderKlConfig {
    AutoencoderKlConfig {
        in_channels: 2,
        out_channels: 3,
        latent_channels: 3,
        down_block_types: vec![DownBlock::DownEncoderBlock2D, DownBlock::AttnDownEncoderBlock2D],
        up_block_types: vec![UpBlock::UpDecoderBlock2D; 2],
        block_out_channels: vec![4, 6],
        norm_num_groups: 2,
        ..AutoencoderKlConfig::default()
    }
}

fn vq_config() -> VqModelConfig {
    VqModelConfig {
        block_out_channels: vec![4, 6],
        down_block_types: vec![DownBlock::DownEncoderBlock2D; 2],
        up_block_types: vec![UpBlock::AttnUpDecoderBlock2D, UpBlock::UpDecoderBlock2D],
        norm_num_groups: 2,
        num_vq_embeddings: 9,
        vq_embed_dim: Some(4),
        ..VqModelConfig::default()
    }
}

/// The bias of the keys adds the same to all scores of a query, which the softmax takes out.
fn real(faults: Vec<String>) -> Vec<String> {
    faults.into_iter().filter(|fault| !fault.contains("to_k.bias: gradient of norm")).collect()
}

#[test]
fn every_parameter_of_autoencoder_kl() {
    let vars = VarMap::new();
    let net = AutoencoderKl::load(&kl_config(), double(&vars)).unwrap();
    let params = randomised(&vars);
    let (x, y) = (normal(0, &[2, 2, 6, 5]), normal(1, &[2, 3, 6, 4]));
    let noise = normal(2, &[2, 3, 3, 2]);
    let faults = faults(&params, &|| {
        let posterior = net.encode(&x)?;
        let decoded = net.decode(&posterior.sample(&noise)?)?;
        Ok((reconstruction(&decoded, &y, Distance::L2)? + (kl(&posterior)? * 0.1)?)?)
    });
    assert!(real(faults.clone()).is_empty(), "{faults:#?}");
    // The broken twin: a latent that is cut off from its encoder.
    let twin = slopes::faults(&params, &|| {
        let z = net.encode(&x)?.sample(&noise)?.detach();
        reconstruction(&net.decode(&z)?, &y, Distance::L2)
    });
    let cut = params.iter().filter(|(name, _)| !name.contains("decoder") && !name.contains("post"));
    assert!(cut.clone().count() > 40);
    for (name, _) in cut {
        assert!(twin.contains(&format!("{name}: no gradient")), "{name}");
    }
}

#[test]
fn every_parameter_of_vq_model() {
    let vars = VarMap::new();
    let net = VqModel::load(&vq_config(), double(&vars)).unwrap();
    let params = randomised(&vars);
    let part = |inside: &dyn Fn(&str) -> bool| -> Vec<(String, Var)> {
        params.iter().filter(|(name, _)| inside(name)).cloned().collect()
    };
    let encoder = part(&|name| name.starts_with("encoder") || name.starts_with("quant_conv"));
    let codebook = part(&|name| name.starts_with("quantize"));
    let decoder = part(&|name| name.starts_with("decoder") || name.starts_with("post_quant"));
    assert_eq!(encoder.len() + codebook.len() + decoder.len(), params.len());
    let (x, y) = (normal(0, &[2, 3, 6, 4]), normal(1, &[2, 3, 6, 4]));
    let h = normal(2, &[2, 4, 3, 2]);
    // Between encoder and decoder the gradient is not that of the function: each part by itself.
    let mut found = real(faults(&encoder, &|| Ok((net.encode(&x)? * &h)?.sqr()?.sum_all()?)));
    found
        .extend(faults(&encoder, &|| net.quantize(&net.encode(&x)?)?.loss_with(0.0, Beta::Legacy)));
    found.extend(faults(&codebook, &|| net.quantize(&h)?.loss_with(0.0, Beta::Paper)));
    found.extend(faults(&decoder, &|| reconstruction(&net.decode(&h)?, &y, Distance::L2)));
    let found = real(found);
    assert!(found.is_empty(), "{found:#?}");
    // Together every parameter receives one.
    let quantized = net.quantize(&net.encode(&x).unwrap()).unwrap();
    let decoded = net.decode_quantized(&quantized.z_q).unwrap();
    let loss = (reconstruction(&decoded, &y, Distance::L2).unwrap() + quantized.loss).unwrap();
    let grads = loss.backward().unwrap();
    for (name, var) in &params {
        let norm: f64 = values(grads.get(var).unwrap()).iter().map(|g| g * g).sum();
        assert!(norm.is_finite() && norm > 0.0, "{name}: {norm}");
    }
}

#[test]
fn every_parameter_of_autoencoder_tiny() {
    for act_fn in ["relu", "silu", "gelu", "mish"] {
        let config = AutoencoderTinyConfig {
            encoder_block_out_channels: vec![5; 2],
            decoder_block_out_channels: vec![6; 2],
            num_encoder_blocks: vec![1, 1],
            num_decoder_blocks: vec![1, 1],
            act_fn: act_fn.to_owned(),
            ..AutoencoderTinyConfig::default()
        };
        let vars = VarMap::new();
        let net = AutoencoderTiny::load(&config, double(&vars)).unwrap();
        let params = randomised(&vars);
        let (x, y) = (normal(0, &[2, 3, 6, 4]), normal(1, &[2, 3, 6, 4]));
        let faults =
            faults(&params, &|| reconstruction(&net.decode(&net.encode(&x)?)?, &y, Distance::L2));
        assert!(faults.is_empty(), "{act_fn}: {faults:#?}");
    }
}

fn feature_net(vars: &VarMap) -> FeatureNet {
    let config = FeatureNetConfig { in_channels: 3, channels: vec![4, 6], classes: 5 };
    FeatureNet::load(&config, double(vars)).unwrap()
}

#[test]
fn every_parameter_of_the_feature_net_and_the_discriminator() {
    let vars = VarMap::new();
    let net = feature_net(&vars);
    let params = randomised(&vars);
    let (x, target) = (normal(0, &[2, 3, 7, 5]), normal(1, &[2, 5]));
    let found = faults(&params, &|| Ok((net.logits(&x)? - &target)?.sqr()?.sum_all()?));
    assert!(found.is_empty(), "{found:#?}");
    for norm in [Norm::Batch, Norm::Group, Norm::None] {
        let vars = VarMap::new();
        let config = DiscriminatorConfig { layers: 2, ndf: 4, norm, ..Default::default() };
        let net = Discriminator::load(&config, double(&vars)).unwrap();
        let params = randomised(&vars);
        let (x, y) = (normal(2, &[2, 3, 12, 14]), normal(3, &[2, 3, 12, 14]));
        let found = faults(&params, &|| {
            let (real, fake) = (net.forward(&x)?, net.forward(&y)?);
            Ok((discriminator_loss(&real, &fake)? + (generator_loss(&fake)? * 0.3)?)?)
        });
        assert!(found.is_empty(), "{norm:?}: {found:#?}");
    }
}

/// Forward the codebook's vector, backward as if nothing had been there; each term of the loss moves
/// the side that its name says; β weighs what its form says.
#[test]
fn gradients_go_straight_through_the_codebook() {
    let vars = VarMap::new();
    let net = VqModel::load(&vq_config(), double(&vars)).unwrap();
    let params = randomised(&vars);
    let (_, codebook) =
        params.iter().find(|(name, _)| name == "quantize.embedding.weight").unwrap();
    let h = Var::from_tensor(&normal(0, &[2, 4, 3, 5])).unwrap();
    let cotangent = normal(1, &[2, 4, 3, 5]);
    let quantized = net.quantize(&h).unwrap();
    // z_q is the codebook's, vector by vector.
    let indices = quantized.indices.flatten_all().unwrap();
    let rows = codebook.index_select(&indices, 0).unwrap();
    let rows = rows.reshape((2, 3, 5, 4)).unwrap().permute((0, 3, 1, 2)).unwrap();
    let gap = (&quantized.z_q - &rows).unwrap().abs().unwrap().max_all().unwrap();
    assert!(gap.to_scalar::<f64>().unwrap() < 1e-15);
    // No vector is nearer, from the definition.
    let (h_values, codes) = (values(&h.permute((0, 2, 3, 1)).unwrap()), values(codebook));
    for (z, index) in h_values.chunks(4).zip(indices.to_vec1::<u32>().unwrap()) {
        let distance = |code: &[f64]| code.iter().zip(z).map(|(e, z)| (e - z).powi(2)).sum::<f64>();
        let distances: Vec<f64> = codes.chunks(4).map(distance).collect();
        let least = distances.iter().copied().fold(f64::INFINITY, f64::min);
        assert_eq!(distances[index as usize], least);
    }
    // Straight through: the gradient of a function of z_q at z_q, curvature included.
    let of =
        |z: &Tensor| ((z.sqr().unwrap() * z).unwrap() * &cotangent).unwrap().sum_all().unwrap();
    let grads = of(&quantized.z_q).backward().unwrap();
    let leaf = Var::from_tensor(&quantized.z_q.detach()).unwrap();
    let expected = of(&leaf).backward().unwrap();
    assert_eq!(values(grads.get(&h).unwrap()), values(expected.get(&leaf).unwrap()));
    let none = |grad: Option<&Tensor>| grad.is_none_or(|g| values(g).iter().all(|g| *g == 0.0));
    assert!(none(grads.get(codebook)));
    // The broken twin: the vectors themselves are no way to the encoder.
    let twin = of(&rows).backward().unwrap();
    assert!(none(twin.get(&h)) && !none(twin.get(codebook)));
    // The terms: one moves the codebook, one the encoder.
    let by_codebook = quantized.codebook.backward().unwrap();
    let by_encoder = quantized.commitment.backward().unwrap();
    assert!(none(by_codebook.get(&h)) && none(by_encoder.get(codebook)));
    let count = (2 * 3 * 5 * 4) as f64;
    let pull = ((h.as_tensor() - &rows).unwrap() * (2.0 / count)).unwrap();
    let gap = (by_encoder.get(&h).unwrap() - pull).unwrap().abs().unwrap().max_all().unwrap();
    assert!(gap.to_scalar::<f64>().unwrap() < 1e-15);
    // β: at the codebook in the legacy form, at the encoder in the paper's.
    let ratio = |loss: &Tensor, of: &Var, base: &Tensor| -> f64 {
        let got = values(loss.backward().unwrap().get(of).unwrap());
        let base = values(base.backward().unwrap().get(of).unwrap());
        let pairs = got.iter().zip(&base).filter(|(_, base)| base.abs() > 1e-9);
        let ratios: Vec<f64> = pairs.map(|(got, base)| got / base).collect();
        assert!(ratios.iter().all(|ratio| (ratio - ratios[0]).abs() < 1e-9));
        ratios[0]
    };
    for (form, at_codebook, at_encoder) in [(Beta::Legacy, 0.3, 1.0), (Beta::Paper, 1.0, 0.3)] {
        let loss = quantized.loss_with(0.3, form).unwrap();
        assert!((ratio(&loss, codebook, &quantized.codebook) - at_codebook).abs() < 1e-9);
        assert!((ratio(&loss, &h, &quantized.commitment) - at_encoder).abs() < 1e-9);
    }
    assert!((ratio(&quantized.loss, codebook, &quantized.codebook) - 0.25).abs() < 1e-9);
}

#[test]
fn losses_are_what_their_sources_say() {
    let vars = VarMap::new();
    let net = feature_net(&vars);
    randomised(&vars);
    let (x, y) = (normal(0, &[2, 3, 7, 5]), normal(1, &[2, 3, 7, 5]));
    let scalar = |t: &Tensor| t.to_scalar::<f64>().unwrap();
    // Sums over a picture, mean over the batch.
    let differences: Vec<f64> =
        values(&x).iter().zip(values(&y)).map(|(x, y)| (x - y).abs()).collect();
    let l1 = differences.iter().sum::<f64>() / 2.0;
    let l2 = differences.iter().map(|d| d * d).sum::<f64>() / 2.0;
    assert!((scalar(&reconstruction(&x, &y, Distance::L1).unwrap()) - l1).abs() < 1e-9);
    assert!((scalar(&reconstruction(&x, &y, Distance::L2).unwrap()) - l2).abs() < 1e-9);
    // The perceptual distance, from its definition.
    let (of_x, of_y) = (net.features(&x).unwrap(), net.features(&y).unwrap());
    let mut expected = [0.0; 2];
    for (of_x, of_y) in of_x.iter().zip(&of_y) {
        let (b, h, w, c) = of_x.dims4().unwrap();
        assert_eq!(b, 2);
        let (of_x, of_y) = (values(of_x), values(of_y));
        for (pixel, (f, g)) in of_x.chunks(c).zip(of_y.chunks(c)).enumerate() {
            let norm = |f: &[f64]| f.iter().map(|f| f * f).sum::<f64>().sqrt();
            let (nf, ng) = (norm(f), norm(g));
            let term: f64 = f.iter().zip(g).map(|(f, g)| (f / nf - g / ng).powi(2)).sum();
            expected[pixel / (h * w)] += term / (h * w) as f64;
        }
    }
    let got = perceptual(&net, &x, &y).unwrap();
    for (got, expected) in values(&got).iter().zip(expected) {
        assert!((got - expected).abs() < 1e-9, "{got} {expected}");
    }
    assert_eq!(values(&perceptual(&net, &x, &x).unwrap()), [0.0; 2]);
    let ones = [Tensor::ones(4, DType::F64, &Device::Cpu).unwrap()];
    let same = weighted_perceptual(&net, &x, &y, &ones).unwrap();
    assert_eq!(values(&same), values(&got));
    let twice = [(&ones[0] * 2.0).unwrap(), Tensor::zeros(6, DType::F64, &Device::Cpu).unwrap()];
    let first = weighted_perceptual(&net, &x, &y, &twice).unwrap();
    assert!(values(&first).iter().zip(values(&got)).all(|(a, b)| *a > 0.0 && *a < 2.0 * b));
    // It is added to each of the 105 numbers of a picture.
    let whole = scalar(&nll(&x, &y, Distance::L1, (&got, 0.5)).unwrap());
    let expected = l1 + 0.5 * 105.0 * (expected[0] + expected[1]) / 2.0;
    assert!((whole - expected).abs() < 1e-8, "{whole} {expected}");
    // Grey pictures are repeated.
    let grey = normal(2, &[1, 1, 4, 4]);
    let three = grey.repeat((1, 3, 1, 1)).unwrap();
    assert_eq!(values(&net.pooled(&grey).unwrap()), values(&net.pooled(&three).unwrap()));
    // Its gradient by the picture, at a difference and where there is nothing to see.
    let picture = Var::from_tensor(&y).unwrap();
    let found = faults(&[("picture".to_owned(), picture.clone())], &|| {
        Ok(perceptual(&net, &x, &picture)?.sum_all()?)
    });
    assert!(found.is_empty(), "{found:#?}");
    let flat = Var::from_tensor(&y.zeros_like().unwrap()).unwrap();
    let grads = perceptual(&net, &x, &flat).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(values(grads.get(&flat).unwrap()).iter().all(|g| g.is_finite()));
}

#[test]
fn two_losses_are_weighed_at_the_last_layer() {
    let of = |values: &[f64]| Tensor::new(values, &Device::Cpu).unwrap();
    let weight = |a: &[f64], b: &[f64]| adaptive_weight(&of(a), &of(b)).unwrap();
    assert!((weight(&[3.0, 4.0], &[0.6, 0.8]) - 5.0 / 1.0001).abs() < 1e-12);
    assert_eq!(weight(&[3.0, 4.0], &[0.0]), 1e4);
    assert_eq!(weight(&[0.0], &[1.0]), 0.0);
    assert!(adaptive_weight(&of(&[f64::NAN]), &of(&[1.0])).is_err());

    let vars = VarMap::new();
    let net = AutoencoderKl::load(&kl_config(), double(&vars).pp("ae")).unwrap();
    let config = DiscriminatorConfig { layers: 1, ndf: 4, norm: Norm::Batch, ..Default::default() };
    let judge = Discriminator::load(&config, double(&vars).pp("d")).unwrap();
    let params = randomised(&vars);
    let find = |name: &str| params.iter().find(|(found, _)| found == name).unwrap().1.clone();
    let last = find(&format!("ae.{LAST_WEIGHT}"));
    let (x, y) = (normal(0, &[2, 2, 8, 6]), normal(1, &[2, 3, 8, 6]));
    let of_picture = |picture: &Tensor| reconstruction(picture, &y, Distance::L1);
    let of_judge = |picture: &Tensor| generator_loss(&judge.forward(picture)?);
    let encoded = || net.encode(&x).unwrap().mode();
    // Two backward passes through everything.
    let decoded = net.decode(&encoded()).unwrap();
    let (nll, generator) = (of_picture(&decoded).unwrap(), of_judge(&decoded).unwrap());
    let (by_nll, by_judge) = (nll.backward().unwrap(), generator.backward().unwrap());
    let expected = adaptive_weight_at(&last, &by_nll, &by_judge).unwrap();
    // One.
    let hidden = net.decode_hidden(&encoded()).unwrap();
    let joined =
        join(&hidden, (&|hidden| net.decode_last(hidden), &last), [&of_picture, &of_judge], 0.5)
            .unwrap();
    assert!((joined.weight / expected - 1.0).abs() < 1e-10, "{} {expected}", joined.weight);
    assert!((joined.nll - values(&nll)[0]).abs() < 1e-12);
    assert!((joined.generator - values(&generator)[0]).abs() < 1e-12);
    let by_both = joined.pseudo_loss().unwrap().backward().unwrap();
    for (name, var) in params.iter().filter(|(name, _)| name.starts_with("ae")) {
        let Some(got) = by_both.get(var) else { continue };
        let (a, b) = (by_nll.get(var).unwrap(), by_judge.get(var).unwrap());
        let expected = (a + (b * (0.5 * expected)).unwrap()).unwrap();
        let size = values(&expected).iter().fold(1e-9f64, |m, g| m.max(g.abs()));
        for (got, expected) in values(got).iter().zip(values(&expected)) {
            assert!((got - expected).abs() < 1e-9 * size + 1e-12, "{name}: {got} {expected}");
        }
    }
    let trained = params.iter().filter(|(name, _)| name.starts_with("ae"));
    assert!(trained.clone().count() > 80);
    assert!(trained.clone().all(|(_, var)| by_both.get(var).is_some()));
    // The broken twin: a discriminator that nothing of the picture reaches.
    let blind = |picture: &Tensor| of_judge(&picture.detach());
    assert!(join(&hidden, (&|h| net.decode_last(h), &last), [&of_picture, &blind], 0.5).is_err());
}

/// Smooth pictures `[2, 3, 8, 8]`.
fn batch() -> Tensor {
    let value = |i: usize| {
        let (x, y) = ((i % 8) as f64 / 7.0, (i / 8 % 8) as f64 / 7.0);
        let (channel, picture) = ((i / 64 % 3) as f64, (i / 192) as f64);
        ((1.0 + picture) * 2.0 * x + channel + y * (2.0 - channel)).sin() * 0.8
    };
    let values: Vec<f32> = (0..384).map(|i| value(i) as f32).collect();
    Tensor::from_vec(values, (2, 3, 8, 8), &Device::Cpu).unwrap()
}

/// Trains with `loss`, which also says how far the pictures are: the mean square at the end.
fn learn(params: &Params, steps: usize, loss: &dyn Fn() -> Result<(Tensor, Tensor)>) -> f64 {
    let config = OptimizerConfig { lr: 4e-3, weight_decay: 0.0, ..OptimizerConfig::default() };
    let mut adam = AdamW::new(config, params.named()).unwrap();
    for step in 0..steps {
        let (loss, _) = loss().unwrap();
        let lr = 4e-3 * (1.0 - step as f64 / steps as f64);
        adam.update(&loss.backward().unwrap(), lr).unwrap();
    }
    let (_, square) = loss().unwrap();
    f64::from(square.to_scalar::<f32>().unwrap())
}

#[test]
fn autoencoder_kl_learns_one_batch_by_heart() {
    let params = Params::new(1);
    let config =
        AutoencoderKlConfig { in_channels: 3, block_out_channels: vec![8, 8], ..kl_config() };
    let net = AutoencoderKl::load(&config, params.builder(&Device::Cpu)).unwrap();
    let (x, noise) = (batch(), normal(3, &[2, 3, 4, 4]).to_dtype(DType::F32).unwrap());
    let square = learn(&params, 200, &|| {
        let posterior = net.encode(&x)?;
        let decoded = net.decode(&posterior.sample(&noise)?)?;
        let loss = (reconstruction(&x, &decoded, Distance::L2)? + (kl(&posterior)? * 1e-6)?)?;
        Ok((loss, (decoded - &x)?.sqr()?.mean_all()?))
    });
    println!("mean square {square:.1e}");
    assert!(square < 1e-3, "{square}");
}

#[test]
fn vq_model_learns_one_batch_by_heart() {
    for form in [Beta::Legacy, Beta::Paper] {
        let params = Params::new(2);
        let config =
            VqModelConfig { block_out_channels: vec![8, 8], num_vq_embeddings: 64, ..vq_config() };
        let net = VqModel::load(&config, params.builder(&Device::Cpu)).unwrap();
        let x = batch();
        let square = learn(&params, 200, &|| {
            let quantized = net.quantize(&net.encode(&x)?)?;
            let decoded = net.decode_quantized(&quantized.z_q)?;
            let square = (decoded - &x)?.sqr()?.mean_all()?;
            Ok(((&square + quantized.loss_with(0.25, form)?)?, square))
        });
        let quantized = net.quantize(&net.encode(&x).unwrap()).unwrap();
        println!(
            "{form:?}: mean square {square:.1e}, {} vectors used, perplexity {:.1}",
            quantized.used, quantized.perplexity
        );
        assert!(square < 1e-2, "{form:?}: {square}");
    }
}

#[test]
fn autoencoder_tiny_learns_one_batch_by_heart() {
    let params = Params::new(3);
    let config = AutoencoderTinyConfig {
        encoder_block_out_channels: vec![12; 2],
        decoder_block_out_channels: vec![12; 2],
        num_encoder_blocks: vec![1, 1],
        num_decoder_blocks: vec![1, 1],
        ..AutoencoderTinyConfig::default()
    };
    let net = AutoencoderTiny::load(&config, params.builder(&Device::Cpu)).unwrap();
    let x = batch();
    let square = learn(&params, 300, &|| {
        let square = (net.decode(&net.encode(&x)?)? - &x)?.sqr()?.mean_all()?;
        Ok((square.clone(), square))
    });
    println!("mean square {square:.1e}");
    assert!(square < 1e-3, "{square}");
}

/// A classifier of four pictures, and a discriminator of two kinds of them.
#[test]
fn feature_net_and_discriminator_learn_one_batch_by_heart() {
    let params = Params::new(4);
    let config = FeatureNetConfig { in_channels: 3, channels: vec![8, 12], classes: 4 };
    let net = FeatureNet::load(&config, params.builder(&Device::Cpu)).unwrap();
    let x = normal(5, &[4, 3, 8, 8]).to_dtype(DType::F32).unwrap();
    let target = Tensor::eye(4, DType::F32, &Device::Cpu).unwrap();
    let square = learn(&params, 100, &|| {
        let square = (net.logits(&x)? - &target)?.sqr()?.mean_all()?;
        Ok((square.clone(), square))
    });
    assert!(square < 1e-4, "{square}");
    let best = net.logits(&x).unwrap().argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap();
    assert_eq!(best, [0, 1, 2, 3]);

    let params = Params::new(5);
    let config = DiscriminatorConfig { layers: 1, ndf: 8, ..Default::default() };
    let judge = Discriminator::load(&config, params.builder(&Device::Cpu)).unwrap();
    let (real, fake) = (batch(), (batch() * -1.0).unwrap());
    let loss = learn(&params, 100, &|| {
        let loss = discriminator_loss(&judge.forward(&real)?, &judge.forward(&fake)?)?;
        Ok((loss.clone(), loss))
    });
    assert!(loss < 1e-2, "{loss}");
}

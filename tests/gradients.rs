//! Every parameter of every network receives a gradient, and it is the right one.
//!
//! candle has fused operations without a backward pass: they cut the graph without an error, and
//! training then leaves everything before them as it was initialised. `check` finds that, and
//! compares each gradient with a difference quotient. The broken twins at the end must be caught.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Module, VarBuilder, VarMap};
use pathline::Result;
use pathline::flow::{Noise, Path, cfm, mse};
use pathline::nn::activation::{gelu, gelu_tanh, mish};
use pathline::nn::attention::{Attention, AttentionConfig, causal_mask};
use pathline::nn::conv::{Conv1d, Upsample1d};
use pathline::nn::linear::Linear;
use pathline::nn::mlp::{FlowMlp, MlpConfig};
use pathline::nn::norm::{GroupNorm, LayerNorm, RmsNorm};
use pathline::nn::params::Params;
use pathline::nn::rope::{Pairing, Rope};
use pathline::nn::softmax::softmax;
use pathline::nn::unet1d::{UNet1d, UNet1dConfig};
use pathline::nn::upsample::nearest_2x;

/// Parameters by name, in a fixed order.
fn named(vars: &VarMap) -> Vec<(String, Var)> {
    let data = vars.data().lock().unwrap();
    let mut named: Vec<_> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

/// Seeded values of ordinary size, so that no gradient vanishes through a layer initialised at zero.
fn randomise(params: &[(String, Var)]) {
    for (i, (_, var)) in params.iter().enumerate() {
        let (dims, n) = (var.dims(), var.elem_count());
        let fan_in = dims.iter().skip(1).product::<usize>() as f32;
        // A vector named `weight` is the gain of a normalisation: around 1.
        let (mean, std) = if dims.len() == 1 { (0.5, 0.3) } else { (0.0, 1.2 / fan_in.sqrt()) };
        let values = Noise::new(8).normal(i as u64, 0, n);
        let values: Vec<f32> = values.into_iter().map(|z| mean + std * z).collect();
        let tensor = Tensor::from_vec(values, dims, var.device()).unwrap();
        var.set(&tensor.to_dtype(var.dtype()).unwrap()).unwrap();
    }
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// What is wrong with the gradients of `loss`, one line a fault: a parameter without a gradient, with
/// one that is not finite or all zero, or whose slope along a random direction is not the difference
/// quotient's. Step and tolerance suit the parameters' dtype.
fn check(params: &[(String, Var)], loss: &dyn Fn() -> Result<Tensor>) -> Vec<String> {
    assert!(!params.is_empty());
    let value = loss().unwrap();
    let (grads, value) = (value.backward().unwrap(), values(&value)[0]);
    let mut faults = Vec::new();
    for (i, (name, var)) in params.iter().enumerate() {
        let Some(grad) = grads.get(var) else {
            faults.push(format!("{name}: no gradient"));
            continue;
        };
        let grad = values(grad);
        let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt();
        if !norm.is_finite() || norm == 0.0 {
            faults.push(format!("{name}: gradient of norm {norm}"));
            continue;
        }
        let double = var.dtype() == DType::F64;
        let (step, tolerance, epsilon) =
            if double { (1e-5, 1e-7, f64::EPSILON) } else { (1e-2, 2e-2, 1.2e-7) };
        let direction: Vec<f64> = Noise::new(9)
            .normal(i as u64, 0, grad.len())
            .into_iter()
            // Half along the gradient, so that the slope cannot be lost in rounding.
            .zip(&grad)
            .map(|(z, g)| f64::from(z) / (grad.len() as f64).sqrt() + g / norm)
            .collect();
        let expected: f64 = direction.iter().zip(&grad).map(|(d, g)| d * g).sum();
        let original = var.as_tensor().copy().unwrap();
        let direction = Tensor::from_vec(direction, var.dims(), &Device::Cpu).unwrap();
        let at = |h: f64| -> f64 {
            let moved = original.to_dtype(DType::F64).unwrap();
            let moved = (moved + direction.affine(h, 0.0).unwrap()).unwrap();
            var.set(&moved.to_dtype(var.dtype()).unwrap()).unwrap();
            values(&loss().unwrap())[0]
        };
        let quotient = (at(step) - at(-step)) / (2.0 * step);
        var.set(&original).unwrap();
        let rounding = 20.0 * epsilon * value.abs() / step;
        if (quotient - expected).abs() > tolerance * (norm + expected.abs()) + rounding {
            faults.push(format!("{name}: slope {expected}, difference quotient {quotient}"));
        }
    }
    faults
}

fn normal(sample: u64, shape: &[usize], dtype: DType) -> Tensor {
    let z = Noise::new(1).normal(sample, 0, shape.iter().product());
    Tensor::from_vec(z, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// The flow-matching loss of a velocity field on made-up data.
fn cfm_loss(
    shape: &[usize],
    dtype: DType,
    velocity: &dyn Fn(&Tensor, &[f64]) -> Result<Tensor>,
) -> Result<Tensor> {
    let t: Vec<f64> = (0..shape[0]).map(|i| (i as f64 + 0.5) / shape[0] as f64).collect();
    let batch = cfm(&Path::Straight, &normal(0, shape, dtype), &normal(1, shape, dtype), &t)?;
    mse(&velocity(&batch.x_t, &t)?, &batch.velocity, None)
}

#[test]
fn unet1d() {
    for use_film_scale_modulation in [true, false] {
        let config = UNet1dConfig {
            action_dim: 2,
            cond_dim: 3,
            down_dims: vec![16, 8, 12],
            kernel_size: 3,
            n_groups: 4,
            diffusion_step_embed_dim: 4,
            use_film_scale_modulation,
        };
        let vars = VarMap::new();
        let net = UNet1d::load(&config, VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu));
        let (net, params) = (net.unwrap(), named(&vars));
        randomise(&params);
        let cond = normal(2, &[3, 3], DType::F64);
        let faults = check(&params, &|| {
            cfm_loss(&[3, 8, 2], DType::F64, &|x, t| {
                let t = Tensor::new(t, &Device::Cpu)?.affine(100.0, 0.0)?;
                net.forward(x, &t, &cond)
            })
        });
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

#[test]
fn mlp() {
    let params = Params::new(3);
    let config = MlpConfig { width: 12, depth: 2, time_embed_dim: 8, token_embed_dim: 4 };
    let net = FlowMlp::load(&config, 5, [3, 2], params.builder(&Device::Cpu)).unwrap();
    let params = params.named();
    randomise(&params);
    let features = normal(2, &[4, 5], DType::F32);
    let faults = check(&params, &|| {
        cfm_loss(&[4, 6], DType::F32, &|x, t| {
            Ok(net.velocity(&net.encode(&features)?, x, t, None)?)
        })
    });
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Largest difference between two tensors.
fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    values(&(a - b).unwrap()).into_iter().fold(0.0, |m, x| m.max(x.abs()))
}

#[test]
fn convolutions_equal_candles_and_have_gradients() {
    for (kernel, stride, padding, time) in [
        (1, 1, 0, 5),
        (3, 1, 1, 7),
        (5, 1, 2, 4),
        (5, 1, 2, 1),
        (3, 2, 1, 8),
        (3, 2, 1, 7),
        (1, 2, 0, 7),
        (4, 3, 0, 11),
        (2, 5, 1, 3),
    ] {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu);
        let conv = Conv1d::load([3, 4, kernel], stride, padding, vb).unwrap();
        let params = named(&vars);
        randomise(&params);
        let x = Var::from_tensor(&normal(0, &[2, 3, time], DType::F64)).unwrap();
        let y = conv.forward(&x).unwrap();
        let (bias, weight) = (&params[0].1, &params[1].1);
        let bias = bias.reshape((1, 4, 1)).unwrap();
        let expected = x.conv1d(weight, padding, stride, 1, 1).unwrap();
        let expected = expected.broadcast_add(&bias).unwrap();
        assert!(gap(&y, &expected) < 1e-14, "kernel {kernel} stride {stride} time {time}");
        let cotangent = normal(1, y.dims(), DType::F64);
        let mut params = params;
        params.push(("x".to_owned(), x.clone()));
        let faults = check(&params, &|| Ok((conv.forward(&x)?.sqr()? * &cotangent)?.sum_all()?));
        assert!(faults.is_empty(), "kernel {kernel} stride {stride} time {time}: {faults:#?}");
    }
}

#[test]
fn upsampling_equals_the_transposed_convolution_and_has_gradients() {
    for time in [1, 2, 5] {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu);
        let up = Upsample1d::load(3, vb).unwrap();
        let mut params = named(&vars);
        randomise(&params);
        let x = Var::from_tensor(&normal(0, &[2, 3, time], DType::F64)).unwrap();
        let y = up.forward(&x).unwrap();
        // From the definition, since candle's own underflows at time 1.
        let (bias, weight, input) = (values(&params[0].1), values(&params[1].1), values(&x));
        let mut expected = vec![0.0; 2 * 3 * 2 * time];
        for (i, out) in expected.iter_mut().enumerate() {
            let (sample, channel, at) = (i / (6 * time), i / (2 * time) % 3, i % (2 * time));
            *out = bias[channel];
            for (from, step, tap) in
                (0..3 * time * 4).map(|j| (j / (4 * time), j / 4 % time, j % 4))
            {
                if 2 * step + tap == at + 1 {
                    *out += input[(sample * 3 + from) * time + step]
                        * weight[(from * 3 + channel) * 4 + tap];
                }
            }
        }
        let expected = Tensor::from_vec(expected, (2, 3, 2 * time), &Device::Cpu).unwrap();
        assert!(gap(&y, &expected) < 1e-14, "time {time}");
        let cotangent = normal(1, y.dims(), DType::F64);
        params.push(("x".to_owned(), x.clone()));
        let faults = check(&params, &|| Ok((up.forward(&x)?.sqr()? * &cotangent)?.sum_all()?));
        assert!(faults.is_empty(), "time {time}: {faults:#?}");
    }
}

#[test]
fn mish_and_its_gradient_are_right_and_finite_everywhere() {
    let points = [-1e4f32, -90.0, -20.0, -1.0, -1e-3, 0.0, 0.5, 3.0, 19.9, 20.0, 20.1, 89.0, 1e4];
    let x = Var::new(&points, &Device::Cpu).unwrap();
    let y = mish(&x).unwrap();
    let grad = y.sum_all().unwrap().backward().unwrap();
    let (y, grad) = (values(&y), values(grad.get(&x).unwrap()));
    for (i, &point) in points.iter().enumerate() {
        let p = f64::from(point);
        // In f64, from the definition.
        let softplus = p.max(0.0) + (-p.abs()).exp().ln_1p();
        let (tanh, sigmoid) = (softplus.tanh(), 1.0 / (1.0 + (-p).exp()));
        let slope = tanh + p * (1.0 - tanh * tanh) * sigmoid;
        assert!((y[i] - p * tanh).abs() <= 1e-6 * p.abs() + 1e-30, "{p}: {}", y[i]);
        assert!((grad[i] - slope).abs() <= 3e-6, "{p}: {} {slope}", grad[i]);
    }
    // The broken twin: candle's own.
    let twin = candle_nn::ops::mish(&x).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(values(twin.get(&x).unwrap()).iter().any(|g| g.is_nan()), "candle's mish is repaired");
}

/// A layer under test: from inputs to an output.
type Layer = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

/// Faults of one layer's parameters and inputs, in f64: `build` makes it, `shapes` are the inputs'.
fn check_layer(
    shapes: &[&[usize]],
    build: &dyn Fn(VarBuilder<'_>) -> Result<Layer>,
) -> Vec<String> {
    let vars = VarMap::new();
    let layer = build(VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu)).unwrap();
    let mut params = named(&vars);
    randomise(&params);
    let inputs = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| Var::from_tensor(&normal(10 + i as u64, shape, DType::F64)).unwrap());
    let inputs: Vec<Var> = inputs.collect();
    params.extend(inputs.iter().enumerate().map(|(i, x)| (format!("input {i}"), x.clone())));
    let inputs: Vec<Tensor> = inputs.iter().map(|x| x.as_tensor().clone()).collect();
    let out = layer(&inputs).unwrap();
    let cotangents = [normal(20, out.dims(), DType::F64), normal(21, out.dims(), DType::F64)];
    check(&params, &|| {
        let y = layer(&inputs)?;
        Ok(((y.sqr()? * &cotangents[0])? + (y * &cotangents[1])?)?.sum_all()?)
    })
}

fn rope(pairing: Pairing) -> Result<Layer> {
    let rope = Rope::new(6, 100.0, &[0.0, 1.0, 7.5], pairing, DType::F64, &Device::Cpu)?;
    Ok(Box::new(move |x| rope.forward(&x[0])))
}

fn attention(context: Option<usize>, bias: bool, vb: VarBuilder<'_>) -> Result<Attention> {
    let config =
        AttentionConfig { query_dim: 6, cross_attention_dim: context, heads: 2, dim_head: 3, bias };
    Attention::load(&config, vb)
}

#[test]
fn every_layer() {
    type Build<'a> = &'a dyn Fn(VarBuilder<'_>) -> Result<Layer>;
    let cases: [(&str, &[&[usize]], Build<'_>); 15] = [
        ("softmax", &[&[3, 5]], &|_| Ok(Box::new(|x| Ok(softmax(&x[0])?)))),
        ("gelu", &[&[3, 5]], &|_| Ok(Box::new(|x| Ok(gelu(&x[0])?)))),
        ("gelu_tanh", &[&[3, 5]], &|_| Ok(Box::new(|x| Ok(gelu_tanh(&x[0])?)))),
        ("silu", &[&[3, 5]], &|_| Ok(Box::new(|x| Ok(x[0].silu()?)))),
        ("linear", &[&[2, 3, 5]], &|vb| {
            let layer = Linear::load(5, 4, vb)?;
            Ok(Box::new(move |x| Ok(layer.forward(&x[0])?)))
        }),
        ("linear, one row, one output, long", &[&[1, 600]], &|vb| {
            let layer = Linear::load(600, 1, vb)?;
            Ok(Box::new(move |x| Ok(layer.forward(&x[0])?)))
        }),
        ("layer norm", &[&[2, 3, 5]], &|vb| {
            let layer = LayerNorm::load(5, 1e-5, vb)?;
            Ok(Box::new(move |x| Ok(layer.forward(&x[0])?)))
        }),
        ("rms norm", &[&[2, 3, 5]], &|vb| {
            let layer = RmsNorm::load(5, 1e-5, vb)?;
            Ok(Box::new(move |x| Ok(layer.forward(&x[0])?)))
        }),
        ("group norm 1-D", &[&[2, 6, 5]], &|vb| {
            let layer = GroupNorm::load(6, 2, 1e-5, vb)?;
            Ok(Box::new(move |x| layer.forward(&x[0])))
        }),
        ("group norm 2-D", &[&[2, 6, 3, 4]], &|vb| {
            let layer = GroupNorm::load(6, 3, 1e-5, vb)?;
            Ok(Box::new(move |x| layer.forward(&x[0])))
        }),
        ("rope of halves", &[&[2, 2, 3, 6]], &|_| rope(Pairing::Halves)),
        ("interleaved rope", &[&[2, 2, 3, 6]], &|_| rope(Pairing::Interleaved)),
        // The input has a second use, which is where candle's own goes wrong.
        ("upsampling", &[&[2, 3, 2, 3]], &|_| {
            Ok(Box::new(|x| Ok((nearest_2x(&x[0])? + nearest_2x(&x[0].sqr()?)?)?)))
        }),
        ("attention", &[&[2, 4, 6]], &|vb| {
            let (layer, mask) = (attention(None, false, vb)?, causal_mask(4, &Device::Cpu)?);
            Ok(Box::new(move |x| layer.forward(&x[0], None, Some(&mask))))
        }),
        ("cross attention", &[&[2, 4, 6], &[2, 3, 5]], &|vb| {
            let layer = attention(Some(5), false, vb)?;
            Ok(Box::new(move |x| layer.forward(&x[0], Some(&x[1]), None)))
        }),
    ];
    for (name, shapes, build) in cases {
        let faults = check_layer(shapes, build);
        assert!(faults.is_empty(), "{name}: {faults:#?}");
    }
    // The bias of the keys adds the same to all scores of a query, which the softmax takes out.
    let faults = check_layer(&[&[2, 4, 6]], &|vb| {
        let layer = attention(None, true, vb)?;
        Ok(Box::new(move |x| layer.forward(&x[0], None, None)))
    });
    assert!(faults.iter().all(|fault| fault.starts_with("to_k.bias")), "{faults:#?}");
}

/// candle's upsampling overwrites what else its input is used for, in one order of two.
#[test]
fn candles_upsampling_is_caught() {
    let twins: [(&str, Layer); 2] = [
        (
            "upsampling",
            Box::new(|x| {
                let (_, _, h, w) = x[0].dims4()?;
                let up = |x: &Tensor| x.upsample_nearest2d(2 * h, 2 * w);
                Ok((up(&x[0])? + nearest_2x(&x[0].sqr()?)?)?)
            }),
        ),
        (
            "upsampling",
            Box::new(|x| {
                let (_, _, h, w) = x[0].dims4()?;
                let up = |x: &Tensor| x.upsample_nearest2d(2 * h, 2 * w);
                Ok((nearest_2x(&x[0].sqr()?)? + up(&x[0])?)?)
            }),
        ),
    ];
    let mut caught = Vec::new();
    for (name, twin) in twins {
        let x = Var::from_tensor(&normal(10, &[2, 3, 2, 3], DType::F64)).unwrap();
        let input = [x.as_tensor().clone()];
        let cotangent = normal(20, twin(&input).unwrap().dims(), DType::F64);
        let loss = || Ok((twin(&input)? * &cotangent)?.sum_all()?);
        if !check(&[("input".to_owned(), x)], &loss).is_empty() {
            caught.push(name);
        }
    }
    assert!(!caught.is_empty(), "candle's upsample_nearest2d is repaired");
}

#[test]
fn gelu_and_its_gradient_are_right_to_the_last_digits() {
    let points = [-30.0, -5.0, -1.0, -0.3, 0.0, 0.5, 1.0, 2.0, 6.0, 30.0];
    let x = Var::new(&points, &Device::Cpu).unwrap();
    let slopes = |y: &Tensor| {
        let grads = y.sum_all().unwrap().backward().unwrap();
        values(grads.get(&x).unwrap())
    };
    // The slope from a difference of fourth order: exact to 1e-11.
    let h = 1e-3;
    let at = |f: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>, d: f64| {
        values(&f(&x.as_tensor().affine(1.0, d).unwrap()).unwrap())
    };
    let error = |f: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>| {
        let (a, b, c, d) = (at(f, -2.0 * h), at(f, -h), at(f, h), at(f, 2.0 * h));
        let slopes = slopes(&f(&x).unwrap()).into_iter().enumerate();
        slopes.fold(0f64, |m, (i, slope)| {
            let quotient = (8.0 * (c[i] - b[i]) - (d[i] - a[i])) / (12.0 * h);
            m.max((slope - quotient).abs())
        })
    };
    for (own, twin) in [
        (error(&gelu), error(&|x: &Tensor| x.gelu_erf())),
        (error(&gelu_tanh), error(&|x: &Tensor| x.gelu())),
    ] {
        println!("gelu: {own:.1e}, candle's {twin:.1e}");
        assert!(own < 1e-10, "{own}");
        assert!(twin > 1e-8, "candle's constants are repaired: {twin}");
    }
}

/// A network whose parameters all matter to its output: a linear layer, weights over its outputs,
/// and a sum. `weights` is the operation under test.
fn attention_like(weights: &dyn Fn(&Tensor) -> Result<Tensor>) -> Vec<String> {
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let scores = candle_nn::linear(4, 6, vb.pp("scores")).unwrap();
    let output = candle_nn::linear(6, 2, vb.pp("output")).unwrap();
    let params = named(&vars);
    randomise(&params);
    let (x, y) = (normal(0, &[6, 4], DType::F32), normal(1, &[6, 2], DType::F32));
    check(&params, &|| mse(&output.forward(&weights(&scores.forward(&x)?)?)?, &y, None))
}

#[test]
fn the_check_passes_sound_operations_and_catches_broken_ones() {
    let sound = attention_like(&|x| Ok(softmax(x)?));
    assert!(sound.is_empty(), "{sound:#?}");

    // No backward pass at all: candle's fused layers.
    let gain = Tensor::ones(6, DType::F32, &Device::Cpu).unwrap();
    let shift = gain.zeros_like().unwrap();
    let angles = normal(3, &[1, 3], DType::F32);
    type Fused<'a> = (&'a str, &'a dyn Fn(&Tensor) -> candle_core::Result<Tensor>);
    let fused: [Fused<'_>; 5] = [
        ("softmax", &candle_nn::ops::softmax_last_dim),
        ("layer norm", &|x| candle_nn::ops::layer_norm(x, &gain, &shift, 1e-5)),
        ("rms norm", &|x| candle_nn::ops::rms_norm(x, &gain, 1e-5)),
        ("rope", &|x| {
            let x = x.reshape((6, 1, 1, 6))?;
            candle_nn::rotary_emb::rope(&x, &angles.cos()?, &angles.sin()?)?.reshape((6, 6))
        }),
        ("rope_i", &|x| {
            let x = x.reshape((6, 1, 1, 6))?;
            candle_nn::rotary_emb::rope_i(&x, &angles.cos()?, &angles.sin()?)?.reshape((6, 6))
        }),
    ];
    for (name, operation) in fused {
        let cut = attention_like(&|x| Ok(operation(x)?));
        for parameter in ["weight", "bias"] {
            let fault = format!("scores.{parameter}: no gradient");
            assert!(cut.contains(&fault), "candle's {name} is repaired: {cut:#?}");
        }
    }

    // A backward pass that forgets one of two ways through the graph.
    let partial = attention_like(&|x| Ok(((x.sqr()? * 0.5)? + x.detach())?));
    assert!(partial.iter().any(|f| f.starts_with("scores.weight: slope")), "{partial:#?}");

    // A gradient that is zero everywhere, and one that is not a number.
    let zero = attention_like(&|x| Ok(((x * x.zeros_like()?)? + 1.0)?));
    assert!(zero.iter().any(|f| f == "scores.weight: gradient of norm 0"), "{zero:#?}");
    let nan = attention_like(&|x| Ok((x + (x - x)?.sqrt()?)?));
    assert!(nan.iter().any(|f| f == "scores.weight: gradient of norm NaN"), "{nan:#?}");
}

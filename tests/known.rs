//! A known part of the sample: pictures and chunks, clamped and guided, by one implementation.

#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use candle_core::{DType, Device, Tensor};
use pathline::Error;
use pathline::flow::denoiser::{denoiser, velocity};
use pathline::flow::known::{Derivative, Hold, Mode, Times, guidance_weight};
use pathline::flow::schedule::DiscreteConfig;
use pathline::flow::{
    Coef, Discrete, Estimate, GaussianMixture, Known, Noise, Path, Prefix, Target,
};
use pathline::solver::{grid, integrate, tableau};

fn tensor(values: Vec<f64>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let gap = |(a, b): (f64, f64)| (a - b).abs() / b.abs().max(1.0);
    let worst = |m: f64, g: f64| if g.is_nan() { f64::INFINITY } else { m.max(g) };
    values(a).into_iter().zip(values(b)).map(gap).fold(0.0, worst)
}

fn normal(seed: u64, shape: &[usize]) -> Tensor {
    let z = Noise::new(seed).normal(0, 0, shape.iter().product());
    tensor(z.into_iter().map(f64::from).collect(), shape)
}

fn paths() -> Vec<Path> {
    vec![
        Path::Straight,
        Path::StraightReversed,
        Path::Cosine,
        Path::CosineReversed,
        Path::Lipman { sigma_min: 0.01 },
        Path::Vp { beta_min: 0.1, beta_max: 20.0 },
        Path::Discrete(Discrete::new(DiscreteConfig::default()).unwrap()),
        Path::Edm { sigma_max: 20.0 },
    ]
}

fn guided(derivative: Derivative, max_guidance_weight: f64) -> Mode {
    Mode::Guided { derivative, max_guidance_weight }
}

#[test]
fn prefix_weights_are_those_of_lerobot() {
    let linear = [0.8333, 0.6667, 0.5, 0.3333, 0.1667];
    let exp = [0.6309, 0.3677, 0.1888, 0.0767, 0.0176];
    for (prefix, falling) in [
        (Prefix::Linear, linear),
        (Prefix::Exp, exp),
        (Prefix::Ones, [1.0; 5]),
        (Prefix::Zeros, [0.0; 5]),
    ] {
        let weights = prefix.weights(3, 8, 12);
        assert_eq!((&weights[..3], &weights[8..]), (&[1.0; 3][..], &[0.0; 4][..]), "{prefix:?}");
        for (got, want) in weights[3..8].iter().zip(falling) {
            assert!((got - want).abs() < 5e-5, "{prefix:?}: {weights:?}");
        }
        // A delay beyond the end is the end; no horizon, no weights.
        assert_eq!(prefix.weights(9, 4, 6), [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        assert!(prefix.weights(3, 8, 0).is_empty());
        assert_eq!(prefix.weights(0, 0, 2), [0.0, 0.0]);
    }
    assert_eq!(serde_json::from_str::<Prefix>("\"EXP\"").unwrap(), Prefix::Exp);
}

#[test]
fn the_weight_is_that_of_the_paper_on_the_straight_path_and_the_same_at_one_noise_level() {
    for beta in [5.0, 10.0, f64::MAX] {
        for i in 1..20 {
            let t = f64::from(i) / 20.0;
            let notes = (t / (1.0 - t)) * (t * t + (1.0 - t) * (1.0 - t)) / (t * t);
            let want = notes.min(beta);
            let got = guidance_weight(&Path::Straight.at(t), beta);
            assert!((got / want - 1.0).abs() < 1e-14, "{t}: {got} {want}");
            for path in paths() {
                let other = path.at(path.t_of_lambda(Path::Straight.lambda(t)));
                // Beyond the end of a path its time is the end.
                if (other.lambda() - Path::Straight.lambda(t)).abs() < 1e-9 {
                    assert!((guidance_weight(&other, beta) / want - 1.0).abs() < 1e-9);
                }
            }
        }
    }
    for t in [0.0, 1.0] {
        assert_eq!(guidance_weight(&Path::Straight.at(t), 5.0), 5.0);
    }
}

#[test]
fn guided_steps_are_lerobot_s_and_the_paper_s() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/rtc.json")).unwrap();
    let numbers =
        |value: &serde_json::Value| -> Vec<f64> { serde_json::from_value(value.clone()).unwrap() };
    let (horizon, dim) = (12, 4);
    let matrix = tensor(numbers(&golden["matrix"]), &[dim, dim]);
    let shape = [1, horizon, dim];
    let x = tensor(numbers(&golden["x"]), &shape);
    let value = tensor(numbers(&golden["prev"]), &shape);
    let net = |x: &Tensor| -> pathline::Result<Tensor> {
        let flat = x.reshape((horizon, dim))?.matmul(&matrix)?;
        Ok((flat.tanh()? * 2.0)?.reshape(&shape)?)
    };
    let (mut worst, mut apart) = ([0.0f64; 2], f64::INFINITY);
    for case in golden["cases"].as_array().unwrap() {
        let t = case["t"].as_f64().unwrap();
        let prefix: Prefix = serde_json::from_value(case["schedule"].clone()).unwrap();
        let weights = tensor(prefix.weights(3, 8, horizon), &[1, horizon, 1]);
        let recorded = tensor(numbers(&case["weights"]), &[1, horizon, 1]);
        assert!(gap(&weights, &recorded) < 1e-12);
        let step = |derivative: Derivative, path: &Path, sign: f64, t: f64| {
            let known =
                Known::new(weights.clone(), value.clone(), guided(derivative, 5.0)).unwrap();
            let mut inner = denoiser(path, Target::Velocity, |x, _| Ok(net(x)?.affine(sign, 0.0)?));
            let mut outer = known.denoiser(path, &mut inner).unwrap();
            velocity(path, &mut outer)(&x, t).unwrap().affine(sign, 0.0).unwrap()
        };
        for (i, (derivative, key)) in
            [(Derivative::Identity, "lerobot"), (Derivative::Vjp, "vjp")].into_iter().enumerate()
        {
            let want = tensor(numbers(&case[key]), &shape);
            worst[i] = worst[i].max(gap(&step(derivative, &Path::Straight, 1.0, t), &want));
            let reversed = step(derivative, &Path::StraightReversed, -1.0, 1.0 - t);
            worst[i] = worst[i].max(gap(&reversed, &want));
            // The broken twin: the other derivative.
            let other = match derivative {
                Derivative::Identity => Derivative::Vjp,
                Derivative::Vjp => Derivative::Identity,
            };
            apart = apart.min(gap(&step(other, &Path::Straight, 1.0, t), &want));
        }
    }
    println!("LeRobot {:.1e}, paper {:.1e}, the two apart by {apart:.2}", worst[0], worst[1]);
    assert!(worst[0] < 1e-12 && worst[1] < 1e-12 && apart > 0.5);
}

#[test]
fn the_true_derivative_is_that_of_finite_differences() {
    let (shape, path, t) = ([2, 3, 2], Path::Cosine, 0.4);
    let (x, value) = (normal(1, &shape), normal(2, &shape));
    let mask = tensor(vec![1.0, 0.6, 0.0], &[1, 3, 1]);
    let matrix = normal(3, &[6, 6]);
    let net = |x: &Tensor, _: f64| -> pathline::Result<Tensor> {
        Ok(x.reshape((2, 6))?.matmul(&matrix)?.tanh()?.reshape(&shape)?)
    };
    let coef = path.at(t);
    let plain = |x: &Tensor| denoiser(&path, Target::Noise, net)(x, t).unwrap();
    let run = |derivative| {
        let known = Known::new(mask.clone(), value.clone(), guided(derivative, 5.0)).unwrap();
        let mut inner = denoiser(&path, Target::Noise, net);
        known.denoiser(&path, &mut inner).unwrap()(&x, t).unwrap()
    };
    let before = plain(&x);
    let error = (&value - &before.data).unwrap().broadcast_mul(&mask).unwrap();
    let along = |x: &Tensor| values(&(plain(x).data * &error).unwrap()).iter().sum::<f64>();
    let (start, h) = (values(&x), 1e-5);
    let slope = |i: usize| {
        let moved = |h: f64| {
            let mut x = start.clone();
            x[i] += h;
            along(&tensor(x, &shape))
        };
        (moved(h) - moved(-h)) / (2.0 * h)
    };
    let pull = tensor((0..12).map(slope).collect(), &shape);
    let weight = guidance_weight(&coef, 5.0);
    let want = (&before.data + (&pull * (coef.sigma * weight)).unwrap()).unwrap();
    let vjp = run(Derivative::Vjp);
    println!("vjp against differences {:.1e}", gap(&vjp.data, &want));
    assert!(gap(&vjp.data, &want) < 1e-8);
    assert!(gap(&vjp.state(&coef).unwrap(), &x) < 1e-14);
    let identity = run(Derivative::Identity);
    let simple = (error * (coef.sigma * weight / (coef.alpha + coef.sigma))).unwrap();
    assert!(gap(&identity.data, &(&before.data + simple).unwrap()) < 1e-14);
    assert!(gap(&identity.data, &vjp.data) > 0.05);
}

#[test]
fn on_unit_normal_data_the_pull_is_exact_on_every_path() {
    // There Var[data | x_t] = σ²/(α² + σ²), and the mean given an exact measurement is the measurement.
    let one = GaussianMixture::isotropic(vec![vec![0.0; 6]], 1.0).unwrap();
    let (shape, open) = ([2, 3, 2], f64::MAX);
    let (x, value) = (normal(4, &shape), normal(5, &shape));
    let mask = tensor(vec![1.0, 1.0, 0.0], &[1, 3, 1]);
    let known =
        |derivative| Known::new(mask.clone(), value.clone(), guided(derivative, open)).unwrap();
    let (vjp, identity) = (known(Derivative::Vjp), known(Derivative::Identity));
    let (mut worst, mut apart) = (0.0f64, f64::INFINITY);
    for path in paths() {
        for t in [0.1, 0.4, 0.7].map(|u| path.own_time(u)) {
            let mut net = one.denoiser(&path);
            let before = net(&x, t).unwrap().data;
            let free = before.broadcast_mul(&mask.affine(-1.0, 1.0).unwrap()).unwrap();
            let want = (free + value.broadcast_mul(&mask).unwrap()).unwrap();
            let got = vjp.denoiser(&path, &mut net).unwrap()(&x, t).unwrap();
            worst = worst.max(gap(&got.data, &want));
            let simple = identity.denoiser(&path, &mut net).unwrap()(&x, t).unwrap();
            apart = apart.min(gap(&simple.data, &want));
        }
    }
    println!("exact pull {worst:.1e}, identity off by {apart:.2}");
    assert!(worst < 1e-10 && apart > 1e-3);
}

fn templates(numbers: usize) -> GaussianMixture {
    let row = |k: u64| Noise::new(77).normal(k, 0, numbers).into_iter().map(f64::from).collect();
    GaussianMixture::isotropic((0..4).map(row).collect(), 0.1).unwrap()
}

#[test]
fn guided_estimates_do_not_depend_on_the_path() {
    let (mixture, shape) = (templates(6), [3, 3, 2]);
    let (x, value) = (normal(6, &shape), normal(7, &shape));
    let mask = tensor(Prefix::Linear.weights(1, 3, 3), &[1, 3, 1]);
    for derivative in [Derivative::Identity, Derivative::Vjp] {
        let known = Known::new(mask.clone(), value.clone(), guided(derivative, 2.5)).unwrap();
        for t in [0.2, 0.5, 0.8] {
            let at = |path: &Path| {
                let own = path.t_of_lambda(Path::Straight.lambda(t));
                let Coef { alpha, sigma, .. } = path.at(own);
                // The same state: straight's has alpha + sigma = 1.
                let x = x.affine(alpha + sigma, 0.0).unwrap();
                let mut net = mixture.denoiser(path);
                let got = known.denoiser(path, &mut net).unwrap()(&x, own).unwrap();
                assert!(gap(&got.state(&path.at(own)).unwrap(), &x) < 1e-12);
                got
            };
            let want = at(&Path::Straight);
            for path in paths() {
                let got = at(&path);
                assert!(gap(&got.data, &want.data) < 1e-9, "{derivative:?} {t}");
                assert!(gap(&got.noise, &want.noise) < 1e-9, "{derivative:?} {t}");
            }
        }
    }
}

/// First-order steps `x_s = α_s·data + σ_s·noise`: DDIM, Euler on a straight path.
fn transfer(
    net: &mut dyn FnMut(&Tensor, f64) -> pathline::Result<Estimate>,
    path: &Path,
    x: Tensor,
    grid: &[f64],
) -> Tensor {
    grid.windows(2).fold(x, |x, w| net(&x, w[0]).unwrap().state(&path.at(w[1])).unwrap())
}

/// Both modes of use with one function: the mask's shape is all that differs.
#[expect(clippy::print_stdout, reason = "called by tests, which say what they measured")]
fn clamp_holds(shape: &[usize], mask: &Tensor) {
    let (b, numbers) = (shape[0], shape[1..].iter().product());
    let mixture = templates(numbers);
    // Sample i is to become template i mod 4, of which it gets the known part.
    let wanted: Vec<usize> = (0..b).map(|i| i % 4).collect();
    let means: Vec<f64> =
        wanted.iter().flat_map(|k| mixture.component(*k).unwrap().mean()).collect();
    let means = tensor(means, shape);
    let value = (&means + (normal(8, shape) * 0.1).unwrap()).unwrap();
    let inside = mask.broadcast_as(shape).unwrap();
    let known_of = |x: &Tensor| (x * &inside).unwrap();
    let near = |x: &Tensor| {
        let off = values(
            &(x - &means)
                .unwrap()
                .sqr()
                .unwrap()
                .flatten(1, shape.len() - 1)
                .unwrap()
                .mean(1)
                .unwrap(),
        );
        off.into_iter().filter(|off| *off < 0.04).count()
    };
    for path in paths() {
        let (noise_end, data) = path.ends();
        let data = if matches!(path, Path::Vp { .. }) { 1e-3 } else { data };
        let noise = normal(9, shape);
        let start = (&noise * path.at(noise_end).sigma).unwrap();
        let known =
            Known::new(mask.clone(), value.clone(), Mode::Clamp(Hold::Along(noise))).unwrap();
        let grid = grid::uniform(noise_end, data, 50).unwrap();
        let end = known_of(&known.hold(&path, &value, data).unwrap());
        let mut net = mixture.denoiser(&path);
        let free = transfer(&mut net, &path, start.clone(), &grid);
        let mut held = known.denoiser(&path, &mut net).unwrap();
        let first_order = transfer(&mut held, &path, start.clone(), &grid);
        let euler = {
            let mut field = velocity(&path, &mut held);
            integrate(&mut field, start, &grid, &tableau::EULER).unwrap().x
        };
        let name: String = format!("{path:?}").chars().take(20).collect();
        println!(
            "{name}: known part off by {:.1e} after first-order steps, {:.1e} after Euler; \
             {} of {b} complete, {} without",
            gap(&known_of(&first_order), &end),
            gap(&known_of(&euler), &end),
            near(&first_order),
            near(&free)
        );
        assert!(gap(&known_of(&first_order), &end) < 1e-12, "{name}");
        if matches!(path, Path::Straight | Path::StraightReversed) {
            assert!(gap(&known_of(&euler), &end) < 1e-12, "{name}");
        }
        for x in [&first_order, &euler] {
            let result = known.hold(&path, x, data).unwrap();
            // To the last bit; and the rest is untouched.
            assert_eq!(values(&known_of(&result)), values(&end), "{name}");
            if path.at(data).sigma == 0.0 {
                assert_eq!(values(&known_of(&result)), values(&known_of(&value)), "{name}");
            }
            let rest = |x: &Tensor| values(&(x - known_of(x)).unwrap());
            assert_eq!(rest(&result), rest(x), "{name}");
        }
        // One noise for all times and no resampling: not the exact conditional, but far from chance.
        assert!(near(&first_order) >= 2 * near(&free), "{name}");
        // The broken twin: no clamp.
        assert!(gap(&known_of(&free), &end) > 0.1, "{name}");
    }
}

#[test]
fn pictures_are_completed_around_the_known_region() {
    let spatial: Vec<f64> = (0..16).map(|i| f64::from(u8::from(i % 4 < 2))).collect();
    clamp_holds(&[32, 2, 4, 4], &tensor(spatial, &[1, 1, 4, 4]));
}

#[test]
fn chunks_are_continued_from_the_known_prefix() {
    let prefix = Prefix::Zeros.weights(6, 12, 12);
    clamp_holds(&[32, 12, 3], &tensor(prefix, &[1, 12, 1]));
}

#[test]
fn guided_chunks_come_near_the_prefix_and_stay_plausible() {
    let (shape, path) = ([32, 12, 3], Path::Straight);
    let mixture = templates(36);
    let means: Vec<f64> = (0..32).flat_map(|i| mixture.component(i % 4).unwrap().mean()).collect();
    let means = tensor(means, &shape);
    let mask = tensor(Prefix::Exp.weights(4, 10, 12), &[1, 12, 1]);
    let grid = grid::uniform(1.0, 0.0, 20).unwrap();
    let near = |x: &Tensor| {
        let off =
            values(&(x - &means).unwrap().sqr().unwrap().flatten(1, 2).unwrap().mean(1).unwrap());
        off.into_iter().filter(|off| *off < 0.04).count()
    };
    let mut net = mixture.denoiser(&path);
    let free = near(&transfer(&mut net, &path, normal(10, &shape), &grid));
    let known = Known::new(mask, means.clone(), guided(Derivative::Vjp, 5.0)).unwrap();
    let x = normal(10, &shape);
    assert_eq!(values(&known.hold(&path, &x, 0.5).unwrap()), values(&x));
    let mut held = known.denoiser(&path, &mut net).unwrap();
    let continued = near(&transfer(&mut held, &path, x, &grid));
    println!("guided: {continued} of 32 continue the prefix, {free} without");
    assert!(continued >= 28 && free < 16);
}

/// A mixture's estimate where every token has its own time: what a network with times per token
/// learns. One number a token, x `[b, H, 1]`.
fn by_token(
    weights: &[f64],
    means: &[[f64; 2]],
    deviation: f64,
    path: &Path,
    x: &Tensor,
    times: &Times,
) -> Estimate {
    let t = match &times.tokens {
        Some(tokens) => values(&tokens.broadcast_as(x.dims()).unwrap()),
        None => vec![times.t; x.elem_count()],
    };
    let (mut data, mut noise) = (Vec::new(), Vec::new());
    for (x, t) in values(x).chunks(2).zip(t.chunks(2)) {
        let coef = [path.at(t[0]), path.at(t[1])];
        let variance = coef.map(|c| (c.alpha * deviation).powi(2) + c.sigma * c.sigma);
        let off = |k: usize, i: usize| x[i] - coef[i].alpha * means[k][i];
        let joint: Vec<f64> = (0..2)
            .map(|k| {
                let log = |i: usize| -0.5 * off(k, i).powi(2) / variance[i];
                weights[k] * (log(0) + log(1)).exp()
            })
            .collect();
        let total: f64 = joint.iter().sum();
        for i in 0..2 {
            let mean = |f: &dyn Fn(usize) -> f64| (0..2).map(|k| joint[k] / total * f(k)).sum();
            let gain = coef[i].alpha * deviation * deviation / variance[i];
            data.push(mean(&|k| means[k][i] + gain * off(k, i)));
            noise.push(mean(&|k| coef[i].sigma / variance[i] * off(k, i)));
        }
    }
    Estimate { data: tensor(data, x.dims()), noise: tensor(noise, x.dims()) }
}

#[test]
fn clean_tokens_with_their_own_time_give_the_conditional_distribution() {
    // Two tokens; the first is known, between the two components.
    let (weights, means, deviation) = ([0.4, 0.6], [[-0.3, -2.0], [0.3, 1.0]], 0.4);
    let (n, y) = (4000, 0.1f64);
    let value = tensor([y, 99.0].repeat(n), &[n, 2, 1]);
    let mask = tensor(vec![1.0, 0.0], &[1, 2, 1]);
    let share = |k: usize| {
        let off = (y - means[k][0]) / deviation;
        weights[k] * (-0.5 * off * off).exp()
    };
    let first = share(0) / (share(0) + share(1));
    let mean = first * means[0][1] + (1.0 - first) * means[1][1];
    let second = first * means[0][1].powi(2) + (1.0 - first) * means[1][1].powi(2);
    let variance = second - mean * mean + deviation * deviation;
    let known = Known::new(mask, value, Mode::Clamp(Hold::Clean)).unwrap();
    let mut ends = Vec::new();
    for path in [Path::Straight, Path::StraightReversed, Path::Cosine] {
        let (noise, data) = path.ends();
        let grid = grid::uniform(noise, data, 100).unwrap();
        let mut net = |x: &Tensor, times: &Times| {
            // The known token is clean whatever the sampler did to it, and the network is told.
            let tokens = values(times.tokens.as_ref().unwrap());
            assert_eq!((tokens.len(), tokens[0], tokens[1]), (2, data, times.t));
            assert!(values(x).iter().step_by(2).all(|x| *x == y));
            Ok(by_token(&weights, &means, deviation, &path, x, times))
        };
        let mut held = known.token_denoiser(&path, &mut net);
        let mut field = velocity(&path, &mut held);
        let start = known.hold(&path, &normal(11, &[n, 2, 1]), noise).unwrap();
        let x = integrate(&mut field, start, &grid, &tableau::HEUN).unwrap().x;
        if path != Path::Cosine {
            let still = values(&x).iter().step_by(2).map(|x| (x - y).abs()).fold(0.0, f64::max);
            assert!(still < 1e-13, "{path:?}: {still}");
        }
        let end = known.hold(&path, &x, data).unwrap();
        assert!(values(&end).iter().step_by(2).all(|x| *x == y));
        let rest: Vec<f64> = values(&end).into_iter().skip(1).step_by(2).collect();
        let got = rest.iter().sum::<f64>() / n as f64;
        let spread = rest.iter().map(|x| (x - got).powi(2)).sum::<f64>() / n as f64;
        println!("{path:?}: mean {got:.3} of {mean:.3}, variance {spread:.3} of {variance:.3}");
        let error = (variance / n as f64).sqrt();
        assert!((got - mean).abs() < 4.0 * error, "{path:?}");
        assert!((spread / variance - 1.0).abs() < 0.1, "{path:?}");
        ends.push(end);
    }
    assert!(gap(&ends[0], &ends[1]) < 1e-12);
    // The broken twin: the network is not told, and takes the clean token for a noisy one.
    let path = Path::Straight;
    let mut deaf = |x: &Tensor, times: &Times| {
        let times = Times { tokens: None, ..times.clone() };
        Ok(by_token(&weights, &means, deviation, &path, x, &times))
    };
    let mut held = known.token_denoiser(&path, &mut deaf);
    let mut field = velocity(&path, &mut held);
    let grid = grid::uniform(1.0, 0.0, 100).unwrap();
    let x = integrate(&mut field, normal(11, &[n, 2, 1]), &grid, &tableau::HEUN).unwrap().x;
    let rest: Vec<f64> = values(&x).into_iter().skip(1).step_by(2).collect();
    let got = rest.iter().sum::<f64>() / n as f64;
    println!("not told: mean {got:.3}");
    assert!((got - mean).abs() > 4.0 * (variance / n as f64).sqrt());
}

#[test]
fn soft_masks_blend_and_single_precision_works() {
    let (shape, path) = ([2, 4, 3], Path::Straight);
    let single = |x: &Tensor| x.to_dtype(DType::F32).unwrap();
    let mask = tensor(vec![1.0, 0.5, 0.25, 0.0], &[1, 4, 1]);
    let (x, value, noise) = (normal(1, &shape), normal(2, &shape), normal(3, &shape));
    let wide = Known::new(mask.clone(), value.clone(), Mode::Clamp(Hold::Along(noise.clone())));
    let narrow =
        Known::new(single(&mask), single(&value), Mode::Clamp(Hold::Along(single(&noise))));
    let want = wide.unwrap().hold(&path, &x, 0.3).unwrap();
    let got = narrow.unwrap().hold(&path, &single(&x), 0.3).unwrap();
    assert!(gap(&got.to_dtype(DType::F64).unwrap(), &want) < 1e-6);
    let (x, y, e) = (values(&x)[3], values(&value)[3], values(&noise)[3]);
    assert!((values(&want)[3] - 0.5 * (x + 0.7 * y + 0.3 * e)).abs() < 1e-15);
}

#[test]
fn nonsense_is_refused() {
    let shape = [2, 4, 3];
    let (value, noise) = (normal(2, &shape), normal(3, &shape));
    let mask = |w: f64| tensor(vec![1.0, w, 0.0, 0.0], &[1, 4, 1]);
    let along = || Mode::Clamp(Hold::Along(noise.clone()));
    for w in [-0.1, 1.1, f64::NAN] {
        let error = Known::new(mask(w), value.clone(), along()).unwrap_err();
        assert!(matches!(error, Error::Range { .. }), "{error}");
    }
    for beta in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mode = guided(Derivative::Identity, beta);
        let error = Known::new(mask(0.5), value.clone(), mode).unwrap_err();
        assert!(matches!(error, Error::Range { .. }), "{error}");
    }
    let short = value.narrow(1, 0, 3).unwrap();
    for (mask, value) in [
        (mask(0.5).flatten_all().unwrap(), value.clone()),
        (mask(0.5), short.clone()),
        (normal(1, &[1, 5, 1]).abs().unwrap().affine(0.0, 1.0).unwrap(), value.clone()),
    ] {
        let error = Known::new(mask, value, Mode::Clamp(Hold::Clean)).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
    let error = Known::new(mask(0.5), value.clone(), Mode::Clamp(Hold::Along(short.clone())));
    assert!(matches!(error.unwrap_err(), Error::Shape { .. }));
    let nan = (&value * f64::NAN).unwrap();
    let error = Known::new(mask(0.5), nan, along()).unwrap_err().to_string();
    assert!(error.contains("fill the unknown"), "{error}");
    // The state comes later.
    let path = Path::Straight;
    let mut net = |x: &Tensor, _: f64| Ok(Estimate { data: x.clone(), noise: x.clone() });
    for mode in [along(), guided(Derivative::Identity, 5.0)] {
        let known = Known::new(mask(0.5), value.clone(), mode).unwrap();
        let error = known.denoiser(&path, &mut net).unwrap()(&short, 0.5).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
        let error = known.hold(&path, &short, 0.5).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
    let clean = Known::new(mask(1.0), value.clone(), Mode::Clamp(Hold::Clean)).unwrap();
    let error = clean.denoiser(&path, &mut net).err().unwrap().to_string();
    assert!(error.contains("times per token"), "{error}");
    let vjp = Known::new(mask(0.5), value.clone(), guided(Derivative::Vjp, 5.0)).unwrap();
    let mut deaf = |x: &Tensor, _: f64| Ok(Estimate { data: x.detach(), noise: x.detach() });
    let error = vjp.denoiser(&path, &mut deaf).unwrap()(&value, 0.5).unwrap_err().to_string();
    assert!(error.contains("Derivative::Identity"), "{error}");
}

//! Parity of the layers between a picture and a policy with PyTorch, torchvision and LeRobot.
//! The golden file is written by tests/golden/vision.py.

#![allow(clippy::print_stdout, reason = "a test says how close it came")]
#![allow(clippy::unwrap_used, reason = "a test may panic: that is how it fails")]
#![cfg(feature = "nn")]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use pathline::Result;
use pathline::nn::batch_norm::{BatchNorm2d, BatchNormKind};
use pathline::nn::conv2d::{Conv2d, Geometry};
use pathline::nn::pool::max_pool_3x3_stride_2;
use pathline::nn::resize::{center_crop, resize};
use pathline::nn::resnet::{Depth, Naming, ResNet, ResNetConfig, ResNetNorm};
use pathline::nn::spatial_softmax::{SpatialSoftmax, positions};

#[path = "support/formula.rs"]
mod formula;

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vision.safetensors")
}

fn golden() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path(), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u64> {
    values(tensor).into_iter().map(f64::to_bits).collect()
}

fn largest(tensor: &Tensor) -> f64 {
    values(tensor).into_iter().map(f64::abs).fold(0.0, f64::max)
}

fn gap(got: &Tensor, golden: &Tensor) -> f64 {
    assert_eq!(got.dims(), golden.dims());
    largest(&(got - golden).unwrap())
}

fn picture(name: &str, shape: &[usize]) -> Tensor {
    formula::tensor(name, shape, 0.5, 0.5)
}

/// Offset and scale of the weight `name`, as in the script.
fn rule(name: &str, shape: &[usize]) -> (f32, f32) {
    match (shape, name.rsplit('.').next().unwrap()) {
        ([_, inputs, height, width], _) => {
            (0.0, (6.0 / (inputs * height * width) as f64).sqrt() as f32)
        }
        (_, "weight") => (0.6, 0.4),
        (_, "bias" | "running_mean") => (0.0, 0.3),
        (_, "running_var") => (1.0, 0.5),
        (_, "pos_grid") => (0.0, 1.0),
        _ => (0.0, 0.0),
    }
}

/// The same numbers as in the script, to the bit.
#[test]
fn weights_follow_the_formula() {
    let known = [0x3F6DB1E0, 0x3F066FED, 0x3F03AFB7, 0x3F4B25DF];
    for (i, known) in known.into_iter().enumerate() {
        assert_eq!(formula::value("4.0.conv1.weight", i, 0.6, 0.4).to_bits(), known);
    }
    let tensor = formula::tensor("4.0.conv1.weight", &[2, 2], 0.6, 0.4);
    let bits =
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits);
    assert!(bits.eq(known));
}

/// What the weights are made of.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Constants by formula.
    Fixed,
    /// The same numbers with a gradient.
    Trained,
    /// Zeros that take no memory, but count as trained.
    Placeholder,
}

/// Makes every weight that a network asks for, and remembers it.
#[derive(Clone)]
struct Weights(Kind, Arc<Mutex<BTreeMap<String, Tensor>>>);

impl Weights {
    fn new(kind: Kind) -> Self {
        Self(kind, Arc::default())
    }

    fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, Device::Cpu)
    }

    fn asked(&self) -> BTreeMap<String, Tensor> {
        self.1.lock().unwrap().clone()
    }
}

impl SimpleBackend for Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        _: DType,
        _: &Device,
    ) -> candle_core::Result<Tensor> {
        let (offset, scale) = rule(name, shape.dims());
        let formula = || formula::tensor(name, shape.dims(), offset, scale);
        let tensor = match self.0 {
            Kind::Fixed => formula(),
            Kind::Trained => Var::from_tensor(&formula())?.as_tensor().clone(),
            Kind::Placeholder => {
                let one = Var::zeros(vec![1; shape.rank()], DType::F32, &Device::Cpu)?;
                one.broadcast_as(&shape)?
            }
        };
        let before = self.1.lock().unwrap().insert(name.to_owned(), tensor.clone());
        assert!(before.is_none(), "{name} is asked for twice");
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name}: no shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// A layer from its weights, applied to a picture.
type Layer<'a> = &'a dyn Fn(VarBuilder<'_>, &Tensor) -> Result<Tensor>;

/// Largest errors of `layer/name`, relative to the largest number: output and gradients.
fn errors(name: &str, dtype: DType, layer: Layer<'_>) -> (f64, f64) {
    let golden = golden();
    let get = |key: &str| golden[&format!("layer/{name}/{key}")].to_dtype(dtype).unwrap();
    let under = |prefix: &str| -> BTreeMap<String, Tensor> {
        let prefix = format!("layer/{name}/{prefix}/");
        let of = golden.iter().filter_map(|(key, tensor)| {
            Some((key.strip_prefix(&prefix)?.to_owned(), tensor.to_dtype(dtype).unwrap()))
        });
        of.collect()
    };
    let builder = |tensors| VarBuilder::from_tensors(tensors, dtype, &Device::Cpu);
    let weights: BTreeMap<String, Var> =
        under("weight").into_iter().map(|(k, t)| (k, Var::from_tensor(&t).unwrap())).collect();
    let x = Var::from_tensor(&get("input/x")).unwrap();
    let tensors = weights.iter().map(|(k, v)| (k.clone(), v.as_tensor().clone())).collect();
    let out = layer(builder(tensors), &x).unwrap();
    let grads = (&out * get("cotangent")).unwrap().sum_all().unwrap().backward().unwrap();
    let wanted = under("grad");
    // The bias before a softmax has no gradient but rounding: it is measured by the others.
    let floor = 0.1 * wanted.values().map(largest).fold(0.0, f64::max);
    let error = |got: &Tensor, want: &Tensor| gap(got, want) / largest(want).max(floor);
    let mut gradient = error(grads.get(&x).unwrap(), &get("grad_input/x"));
    for (key, var) in &weights {
        match wanted.get(key) {
            Some(wanted) => gradient = gradient.max(error(grads.get(var).unwrap(), wanted)),
            None => assert!(grads.get(var).is_none(), "{name}: {key} is a constant"),
        }
    }
    // Weights without a gradient are kept in another order.
    let fixed = layer(builder(under("weight").into_iter().collect()), &x.detach()).unwrap();
    (error(&out, &get("out")).max(error(&fixed, &get("out"))), gradient)
}

fn check(name: &str, layer: Layer<'_>) {
    for (dtype, bound) in [(DType::F32, 2e-6), (DType::F64, 1e-7)] {
        let (output, gradient) = errors(name, dtype, layer);
        println!("{name} {dtype:?}: output {output:.1e}, gradients {gradient:.1e}");
        assert!(output < bound && gradient < bound, "{name} {dtype:?}: {output} {gradient}");
    }
}

fn geometry(stride: usize, padding: usize, dilation: usize) -> Geometry {
    Geometry { stride, padding, dilation }
}

#[test]
fn convolutions() {
    for (name, sizes, geometry, bias) in [
        ("conv-3x3", [5, 6, 3], geometry(1, 1, 1), true),
        ("conv-3x3-stride-2", [4, 3, 3], geometry(2, 1, 1), false),
        ("conv-7x7-stem", [3, 4, 7], geometry(2, 3, 1), false),
        ("conv-1x1", [6, 5, 1], geometry(1, 0, 1), true),
        ("conv-1x1-stride-2", [6, 5, 1], geometry(2, 0, 1), false),
        ("conv-3x3-dilation-2", [4, 5, 3], geometry(1, 2, 2), true),
        ("conv-3x3-all", [2, 3, 3], geometry(2, 1, 2), true),
        ("conv-2x2-stride-3", [3, 2, 2], geometry(3, 0, 1), true),
    ] {
        check(name, &|vb, x| Conv2d::load(sizes, geometry, bias, vb)?.forward(x));
    }
}

#[test]
fn normalisations() {
    for (name, kind) in [("batch-norm", BatchNormKind::Tracked), ("frozen", BatchNormKind::Frozen)]
    {
        check(name, &|vb, x| BatchNorm2d::load(5, 1e-5, kind, vb)?.forward(x));
    }
}

#[test]
fn spatial_softmax() {
    check("spatial-softmax", &|vb, x| SpatialSoftmax::load(6, [3, 5], 4, vb)?.forward(x));
    let grid = values(&golden()["layer/spatial-softmax/weight/pos_grid"]);
    assert_eq!(positions([3, 5]).into_iter().map(f64::from).collect::<Vec<_>>(), grid);
    assert_eq!(positions([1, 1]), [-1.0, -1.0]);
}

#[test]
fn pooling() {
    let golden = golden();
    for name in ["even", "odd", "thin", "ties"] {
        let get = |key: &str| golden[&format!("pool/{name}/{key}")].clone();
        let x = Var::from_tensor(&get("input")).unwrap();
        let out = max_pool_3x3_stride_2(&x).unwrap();
        let fixed = max_pool_3x3_stride_2(&get("input")).unwrap();
        assert!(gap(&out, &get("out")) == 0.0 && gap(&fixed, &get("out")) == 0.0, "{name}");
        let grads = (out * get("cotangent")).unwrap().sum_all().unwrap().backward().unwrap();
        let error = gap(grads.get(&x).unwrap(), &get("grad"));
        assert!(error < 5e-7, "{name}: {error}");
    }
}

#[test]
fn resizing() {
    let golden = golden();
    let mut worst = 0.0f64;
    let size = |text: &str| -> [usize; 2] {
        let (h, w) = text.split_once('x').unwrap();
        [h.parse().unwrap(), w.parse().unwrap()]
    };
    let mut sorted: Vec<_> = golden.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    for (key, wanted) in sorted {
        let Some((from, to)) = key.strip_prefix("resize/").and_then(|sizes| sizes.split_once('/'))
        else {
            continue;
        };
        let [h, w] = size(from);
        let x = picture(&format!("resize/{from}"), &[1, 1, h, w]);
        let got = resize(&x, size(to)).unwrap();
        let error = gap(&got, wanted);
        println!("{from} to {to}: {error:.1e}");
        worst = worst.max(error);
        assert!(bits(&resize(&x, [h, w]).unwrap()) == bits(&x), "{from}: the same size");
        // Pictures and channels do not see each other.
        let other = picture("other", &[1, 1, h, w]);
        let four = Tensor::cat(&[&other, &x, &x, &other], 0).unwrap();
        let four = resize(&four.reshape((2, 2, h, w)).unwrap(), size(to)).unwrap();
        assert!(bits(&four.narrow(0, 1, 1).unwrap().narrow(1, 0, 1).unwrap()) == bits(&got));
    }
    assert!(worst > 0.0 && worst < 3e-7, "{worst}");

    let x = Var::from_tensor(&picture("resize/gradient", &[1, 2, 13, 9])).unwrap();
    let y = resize(&x, [7, 12]).unwrap();
    let grads = (&y * picture("resize/cotangent", y.dims())).unwrap().sum_all().unwrap();
    let error = gap(grads.backward().unwrap().get(&x).unwrap(), &golden["resize/gradient"]);
    println!("gradient: {error:.1e}");
    assert!(error < 5e-7, "{error}");
}

#[test]
fn cropping() {
    let rows = golden()["crop"].to_vec2::<f32>().unwrap();
    assert!(rows.len() > 80);
    for row in rows {
        let [length, cropped, offset] = [0, 1, 2].map(|i| row[i] as usize);
        let x = Tensor::arange(0f32, length as f32, &Device::Cpu).unwrap();
        let tall = x.reshape((1, 1, length, 1)).unwrap();
        let wide = x.reshape((1, 1, 1, length)).unwrap();
        for (x, size) in [(tall, [cropped, 1]), (wide, [1, cropped])] {
            let got = values(&center_crop(&x, size).unwrap());
            let wanted: Vec<f64> = (offset..offset + cropped).map(|i| i as f64).collect();
            assert_eq!(got, wanted, "{length} to {cropped}");
        }
    }
}

fn resnet(depth: Depth, norm: ResNetNorm, dilate_last: bool) -> ResNetConfig {
    let naming = if norm == ResNetNorm::Frozen { Naming::Named } else { Naming::Sequential };
    ResNetConfig { depth, norm, dilate_last, naming }
}

/// Every eighth channel.
fn eighth(x: &Tensor) -> Tensor {
    let (b, c, h, w) = x.dims4().unwrap();
    x.contiguous()
        .unwrap()
        .reshape((b, c / 8, 8, h, w))
        .unwrap()
        .narrow(2, 0, 1)
        .unwrap()
        .squeeze(2)
        .unwrap()
}

#[test]
fn feature_maps() {
    use Depth::{Resnet18, Resnet34, Resnet50};
    use ResNetNorm::{Batch, Frozen, Group};
    let golden = golden();
    for (name, config, shape) in [
        ("18-group", resnet(Resnet18, Group, false), [2, 3, 61, 83]),
        ("18-frozen", resnet(Resnet18, Frozen, false), [1, 3, 48, 64]),
        ("34-batch", resnet(Resnet34, Batch, false), [1, 3, 61, 83]),
        ("50-group", resnet(Resnet50, Group, false), [1, 3, 33, 40]),
        ("50-frozen-dilated", resnet(Resnet50, Frozen, true), [1, 3, 33, 70]),
        ("50-batch", resnet(Resnet50, Batch, false), [1, 3, 20, 17]),
    ] {
        let net = ResNet::load(&config, Weights::new(Kind::Fixed).builder()).unwrap();
        let got = net.forward(&picture(&format!("picture/{name}"), &shape)).unwrap();
        let [_, _, h, w] = shape;
        let [height, width] = config.output_size([h, w]);
        assert_eq!(got.dims(), [shape[0], config.channels(), height, width], "{name}");
        let wanted = &golden[&format!("resnet/{name}")];
        let exact = &golden[&format!("exact/{name}")];
        let (error, ours, theirs) =
            (gap(&eighth(&got), wanted), gap(&eighth(&got), exact), gap(wanted, exact));
        println!("{name}: {error:.1e}; from float64: {ours:.1e}, PyTorch's {theirs:.1e}");
        // Of numbers up to 7.
        assert!(ours < 1e-5 && error < 1e-5, "{name}: {error} {ours}");
    }
}

/// Names and shapes of all weights, for every depth and normalisation.
#[test]
fn weights_have_torchvisions_names() {
    let file = std::fs::read(path()).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&file).unwrap();
    let metadata = &header.metadata().as_ref().unwrap()["golden"];
    let metadata: BTreeMap<String, String> = serde_json::from_str(metadata).unwrap();
    let mut seen = 0;
    for (key, wanted) in &metadata {
        let Some((depth, norm)) = key.strip_prefix("keys/").and_then(|net| net.split_once('-'))
        else {
            continue;
        };
        let norm = match norm {
            "group" => ResNetNorm::Group,
            "batch" => ResNetNorm::Batch,
            _ => ResNetNorm::Frozen,
        };
        // Placeholders: a loader neither reads nor copies them.
        let weights = Weights::new(Kind::Placeholder);
        let config = resnet(Depth::by_name(depth).unwrap(), norm, false);
        ResNet::load(&config, weights.builder()).unwrap();
        let asked = weights.asked();
        let mut lines: Vec<String> =
            asked.iter().map(|(name, tensor)| format!("{name} {:?}\n", tensor.dims())).collect();
        lines.sort();
        let hash = formula::fnv1a(lines.concat().as_bytes());
        assert_eq!(format!("{} {hash:016x}", lines.len()), *wanted, "{key}");
        seen += 1;
    }
    assert_eq!(seen, 12);
}

#[test]
fn every_weight_has_a_gradient() {
    for config in [
        resnet(Depth::Resnet18, ResNetNorm::Group, false),
        resnet(Depth::Resnet18, ResNetNorm::Batch, false),
        resnet(Depth::Resnet50, ResNetNorm::Frozen, true),
    ] {
        let weights = Weights::new(Kind::Trained);
        let net = ResNet::load(&config, weights.builder()).unwrap();
        let x = picture("gradient", &[2, 3, 40, 35]);
        let loss = || net.forward(&x).unwrap().sqr().unwrap().mean_all().unwrap();
        let grads = loss().backward().unwrap();
        let mut square = 0.0;
        for (name, tensor) in weights.asked() {
            let last = name.rsplit('.').next().unwrap();
            let constant = matches!(last, "running_mean" | "running_var" | "num_batches_tracked")
                || (config.norm == ResNetNorm::Frozen && tensor.rank() == 1);
            match grads.get(&tensor) {
                None => assert!(constant, "{name} has no gradient"),
                Some(grad) => {
                    let norm = values(grad).iter().map(|g| g * g).sum::<f64>();
                    assert!(!constant && norm.is_finite() && norm > 0.0, "{name}: {norm}");
                    square += norm;
                }
            }
        }
        // A step along the gradient changes the loss by its length.
        let at = |h: f64| -> f64 {
            let step = h / square.sqrt();
            let moved =
                weights.asked().into_iter().map(|(name, tensor)| match grads.get(&tensor) {
                    Some(grad) => (name, (tensor.detach() + (grad * step).unwrap()).unwrap()),
                    None => (name, tensor.detach()),
                });
            let vb = VarBuilder::from_tensors(moved.collect(), DType::F32, &Device::Cpu);
            let net = ResNet::load(&config, vb).unwrap();
            values(&net.forward(&x).unwrap().sqr().unwrap().mean_all().unwrap())[0]
        };
        let h = 1e-3 / square.sqrt();
        let (slope, length) = ((at(h) - at(-h)) / (2.0 * h), square.sqrt());
        println!("{config:?}: slope {slope:.5}, gradient {length:.5}");
        assert!((slope / length - 1.0).abs() < 1e-2, "{slope} {length}");
    }
}

#[test]
fn a_picture_has_the_same_bits_in_any_batch() {
    let same = |name: &str, x: &Tensor, forward: &dyn Fn(&Tensor) -> Result<Tensor>| {
        let whole = forward(x).unwrap();
        for i in 0..x.dim(0).unwrap() {
            let alone = forward(&x.narrow(0, i, 1).unwrap()).unwrap();
            assert!(bits(&alone) == bits(&whole.narrow(0, i, 1).unwrap()), "{name}, picture {i}");
        }
    };
    for kind in [Kind::Fixed, Kind::Trained] {
        for norm in [ResNetNorm::Group, ResNetNorm::Batch] {
            let config = resnet(Depth::Resnet18, norm, false);
            let net = ResNet::load(&config, Weights::new(kind).builder()).unwrap();
            let x = picture("batch", &[3, 3, 37, 90]);
            same("resnet", &x, &|x| net.forward(x));
        }
        // Its rows are gathered in two parts for one picture and in six for three.
        let vb = Weights::new(kind).builder();
        let conv = Conv2d::load([64, 8, 3], geometry(1, 1, 1), true, vb).unwrap();
        same("conv", &picture("wide", &[3, 64, 48, 64]), &|x| conv.forward(x));
        let vb = Weights::new(kind).builder();
        let points = SpatialSoftmax::load(64, [3, 4], 32, vb).unwrap();
        same("spatial softmax", &picture("maps", &[3, 64, 3, 4]), &|x| points.forward(x));
    }
}

#[test]
fn sizes_that_do_not_fit_are_one_clear_error() {
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
    let vb = || Weights::new(Kind::Placeholder).builder();
    let conv = Conv2d::load([3, 4, 3], geometry(1, 0, 1), true, vb()).unwrap();
    let norm = BatchNorm2d::load(3, 1e-5, BatchNormKind::Frozen, vb()).unwrap();
    let points = SpatialSoftmax::load(3, [2, 3], 4, vb()).unwrap();
    let net = resnet(Depth::Resnet18, ResNetNorm::Frozen, false);
    let net = ResNet::load(&net, vb()).unwrap();
    for (got, named) in [
        (conv.forward(&zeros(&[1, 2, 5, 5])), "3 channels of at least 3×3 pixels with padding 0"),
        (conv.forward(&zeros(&[1, 3, 2, 5])), "3 channels of 2×5 pixels"),
        (conv.forward(&zeros(&[3, 5, 5])), "[3, 5, 5]"),
        (norm.forward(&zeros(&[1, 2, 5, 5])), "[b, 3, h, w]"),
        (points.forward(&zeros(&[1, 3, 3, 2])), "[b, c, 2, 3]"),
        (points.forward(&zeros(&[1, 2, 2, 3])), "3 channels"),
        (net.forward(&zeros(&[1, 1, 32, 32])), "[b, 3, h, w]"),
        (net.forward(&zeros(&[1, 3, 0, 32])), "[1, 3, 0, 32]"),
        (max_pool_3x3_stride_2(&zeros(&[1, 3, 0, 2])), "[1, 3, 0, 2]"),
        (resize(&zeros(&[1, 3, 4, 5]), [0, 5]), "0×5"),
        (resize(&zeros(&[3, 4, 5]), [4, 4]), "[3, 4, 5]"),
        (resize(&zeros(&[1, 3, 4, 0]), [4, 4]), "[1, 3, 4, 0]"),
        (center_crop(&zeros(&[1, 3, 4, 5]), [4, 6]), "[b, c, at least 4, at least 6]"),
        (center_crop(&zeros(&[1, 3, 4, 5]), [0, 5]), "at least one pixel"),
    ] {
        let error = got.unwrap_err().to_string();
        assert!(error.contains(named), "{error:?} does not say {named:?}");
    }
    assert!(Conv2d::load([3, 0, 3], geometry(1, 0, 1), true, vb()).is_err());
    assert!(Conv2d::load([3, 4, 3], geometry(0, 0, 1), true, vb()).is_err());
    let error = Depth::by_name("vgg16").unwrap_err().to_string();
    assert!(error.contains("resnet152") && error.contains("vgg16"), "{error}");
    let dilated = resnet(Depth::Resnet34, ResNetNorm::Frozen, true);
    let error = ResNet::load(&dilated, vb()).unwrap_err().to_string();
    assert!(error.contains("replace_final_stride_with_dilation"), "{error}");
}

/// The broken twins: what others do instead.
#[test]
fn wrong_twins_are_seen() {
    // Bilinear without antialiasing, as candle does it.
    let x = picture("resize/48x64", &[1, 1, 48, 64]);
    let plain = x.upsample_bilinear2d(24, 32, false).unwrap();
    assert!(gap(&plain, &golden()["resize/48x64/24x32"]) > 0.1);
    // candle's own convolution has no gradient where height and width are not both odd or even.
    let x = Var::from_tensor(&picture("twin", &[1, 3, 8, 7])).unwrap();
    let weight = picture("twin weight", &[4, 3, 3, 3]);
    assert!(x.conv2d(&weight, 1, 2, 1, 1).unwrap().sum_all().unwrap().backward().is_err());
    // A network whose last group dilates its first block too.
    let config = resnet(Depth::Resnet50, ResNetNorm::Frozen, false);
    let net = ResNet::load(&config, Weights::new(Kind::Fixed).builder()).unwrap();
    let got = net.forward(&picture("picture/50-frozen-dilated", &[1, 3, 33, 70])).unwrap();
    assert_ne!(eighth(&got).dims(), golden()["resnet/50-frozen-dilated"].dims());
}

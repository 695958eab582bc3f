//! One file or shards, renamed, surveyed and streamed.

use std::collections::HashMap;
use std::fs;

use super::*;
use crate::tensors;

const WEIGHTS: &str = "model.safetensors";

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn save(path: &Path, tensors: &[(&str, Tensor)]) {
    let map: HashMap<String, Tensor> =
        tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
    tensors::save(&map, path).unwrap();
}

/// A folder with `a` `[2, 2]` and `b.bias` `[3]`.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2]), tensor(&[5.0, 6.0, 7.0], &[3]));
    save(&dir.path().join(WEIGHTS), &[("a", a), ("b.bias", b)]);
    dir
}

#[expect(clippy::needless_pass_by_value, reason = "what `Weights::load` calls")]
fn both(vb: VarBuilder<'_>) -> Result<[Tensor; 2]> {
    Ok([vb.get((2, 2), "a")?, vb.pp("b").get(3, "bias")?])
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn names_sizes_and_values_are_those_of_the_file() {
    let dir = folder();
    let weights = Weights::open(dir.path()).unwrap();
    let names: Vec<_> = weights.names().collect();
    assert_eq!(names, [("a", &[2, 2][..]), ("b.bias", &[3][..])]);
    assert_eq!(weights.parameters(), 7);
    assert_eq!(weights.bytes(), fs::metadata(dir.path().join(WEIGHTS)).unwrap().len());
    assert_eq!(values(&weights.read("a", &Device::Cpu).unwrap()), [1.0, 2.0, 3.0, 4.0]);
    let error = weights.read("c", &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("tensor c") && error.contains(WEIGHTS), "{error}");
    let mut runs = Vec::new();
    let [a, b] = weights
        .load(&Device::Cpu, |vb| {
            let built = both(vb)?;
            runs.push(built.iter().all(Tensor::track_op));
            Ok(built)
        })
        .unwrap();
    assert_eq!(runs, [true, false], "placeholders are tracked, weights are not");
    assert_eq!((values(&a), values(&b)), (vec![1.0, 2.0, 3.0, 4.0], vec![5.0, 6.0, 7.0]));
}

#[test]
fn all_that_differs_is_one_error_and_nothing_is_read_for_it() {
    let dir = folder();
    let weights = Weights::open(dir.path()).unwrap();
    let mut runs = 0;
    let error = weights
        .load(&Device::Cpu, |vb| {
            runs += 1;
            for layer in 0..40 {
                vb.get((3, layer), &format!("layer.{layer:02}"))?;
            }
            Ok(vb.get((4, 1), "a")?)
        })
        .unwrap_err()
        .to_string();
    assert_eq!(runs, 1);
    for says in [
        WEIGHTS,
        "config.json",
        "40 missing",
        "layer.00 [3, 0]",
        "and 28 more",
        "1 unexpected",
        "b.bias [3]",
        "1 of another shape",
        "a: expected [4, 1], got [2, 2]",
    ] {
        assert!(error.contains(says), "{says}: {error}");
    }
    assert!(error.lines().count() <= 24, "{error}");
}

#[test]
fn a_shape_without_end_is_an_error_and_a_large_one_costs_nothing() {
    let dir = folder();
    let weights = Weights::open(dir.path()).unwrap();
    for shape in [vec![usize::MAX, 2], vec![1 << 32, 1 << 32], vec![0, 1 << 40, 1 << 40]] {
        let error = weights.load(&Device::Cpu, |vb| Ok(vb.get(shape.as_slice(), "a")?));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("tensor a") && error.contains("can be counted"), "{error}");
    }
    // 128 GB; the machine would not survive it.
    let error = weights.load(&Device::Cpu, |vb| Ok(vb.get((1 << 17, 1 << 18), "a")?));
    assert!(error.unwrap_err().to_string().contains("[131072, 262144]"));
    let endless = weights.load(&Device::Cpu, |vb| -> Result<()> {
        let mut layer = 0u64;
        loop {
            vb.get(1, &layer.to_string())?;
            layer += 1;
        }
    });
    assert!(endless.unwrap_err().to_string().contains("at most 65536 tensors"));
    let unchecked = weights.load(&Device::Cpu, |vb| Ok(vb.get_unchecked("c")?));
    assert!(unchecked.unwrap_err().to_string().contains("tensor c"));
    let own = weights.load(&Device::Cpu, |_| -> Result<()> { Err(Error::Invalid("own".into())) });
    let own = own.unwrap_err().to_string();
    assert!(own.contains("own") && own.contains(WEIGHTS), "{own}");
}

#[test]
fn names_can_be_changed_and_tensors_left_out() {
    let dir = folder();
    let weights = Weights::open(dir.path()).unwrap();
    let renamed = weights.rename(|name| name.strip_prefix("b.").map(str::to_owned)).unwrap();
    assert_eq!(renamed.names().collect::<Vec<_>>(), [("bias", &[3][..])]);
    let bias = renamed.load(&Device::Cpu, |vb| Ok(vb.get(3, "bias")?)).unwrap();
    assert_eq!(values(&bias), [5.0, 6.0, 7.0]);
    let twice = Weights::open(dir.path()).unwrap().rename(|_| Some("x".into()));
    let error = twice.err().unwrap().to_string();
    assert!(error.contains("a and b.bias") && error.contains(WEIGHTS), "{error}");
}

#[test]
fn a_value_that_is_not_finite_is_named_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(WEIGHTS);
    for (bad, dtype, says) in [
        (f64::NAN, DType::F32, "NaN"),
        (f64::NEG_INFINITY, DType::F32, "-inf"),
        (f64::INFINITY, DType::F16, "inf"),
        (f64::NAN, DType::BF16, "NaN"),
        (1e300, DType::F64, "inf"),
    ] {
        // Beyond the first chunk that is read.
        let len = 300_000;
        let mut numbers = vec![0.0f64; 2 * len];
        numbers[len + 299_000] = bad;
        let tensor = Tensor::from_vec(numbers, (2, len), &Device::Cpu).unwrap();
        save(&path, &[("w", tensor.to_dtype(dtype).unwrap())]);
        let weights = Weights::open(dir.path()).unwrap();
        let error = weights.load(&Device::Cpu, |vb| Ok(vb.get((2, len), "w")?)).unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        let error = error.to_string();
        let place =
            format!("tensor w: expected values that are finite in f32, got {says} at [1, 299000]");
        assert!(error.contains(&place) && error.contains(WEIGHTS), "{error}");
    }
}

/// What is read are open files: a file that is replaced changes nothing, one that shrinks is an error.
#[test]
fn a_file_that_changes_meanwhile_is_no_danger() {
    let dir = folder();
    let path = dir.path().join(WEIGHTS);
    let weights = Weights::open(dir.path()).unwrap();
    let other = dir.path().join("other");
    save(&other, &[("a", tensor(&[9.0], &[1]))]);
    fs::rename(&other, &path).unwrap();
    assert_eq!(values(&weights.load(&Device::Cpu, both).unwrap()[0]), [1.0, 2.0, 3.0, 4.0]);

    let dir = folder();
    let weights = Weights::open(dir.path()).unwrap();
    let path = dir.path().join(WEIGHTS);
    let len = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(&path).unwrap().set_len(len - 1).unwrap();
    let error = weights.load(&Device::Cpu, both).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains(WEIGHTS), "{error}");
}

fn shards(map: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2]), tensor(&[5.0, 6.0, 7.0], &[3]));
    save(&dir.path().join("1.safetensors"), &[("a", a)]);
    save(&dir.path().join("2.safetensors"), &[("b.bias", b)]);
    let text = format!(r#"{{"metadata":{{"total_size":28}},"weight_map":{{{map}}}}}"#);
    fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
    dir
}

#[test]
fn shards_are_one_set_of_weights() {
    let dir = shards(r#""a":"1.safetensors","b.bias":"2.safetensors""#);
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.files().count(), 2);
    assert_eq!(
        (weights.parameters(), weights.path()),
        (7, &*dir.path().join("model.safetensors.index.json"))
    );
    let [a, b] = weights.load(&Device::Cpu, both).unwrap();
    assert_eq!((values(&a), values(&b)), (vec![1.0, 2.0, 3.0, 4.0], vec![5.0, 6.0, 7.0]));
}

#[test]
fn an_index_that_contradicts_its_shards_is_an_error() {
    for (map, says) in [
        (r#""a":"1.safetensors""#, ""),
        (r#""a":"1.safetensors","b.bias":"1.safetensors""#, "b.bias is not there"),
        (r#""a":"2.safetensors","b.bias":"2.safetensors""#, "a is not there"),
        (r#""a":"1.safetensors","c":"2.safetensors""#, "does not list it"),
        (r#""a":"1.safetensors","b.bias":"2.safetensors","c":"2.safetensors""#, "c is not there"),
        (r#""a":"1.safetensors","b.bias":"3.safetensors""#, "3.safetensors"),
        (r#""a":"1.safetensors","a":"2.safetensors""#, "a: expected each key once"),
        (r#""a":"1.safetensors","b.bias":"../2.safetensors""#, "plain file name"),
        (r#""a":"1.safetensors","b.bias":"/tmp/2.safetensors""#, "plain file name"),
        (r#""a":"1.safetensors","b.bias":"pytorch_model.bin""#, ".safetensors files"),
        (r#""a":"1.safetensors","b.bias":7"#, "expected a string"),
        (r#""a":"1.safetensors","b.bias":"model.safetensors.index.json""#, ".safetensors files"),
    ] {
        let dir = shards(map);
        let opened = Weights::open(dir.path());
        if says.is_empty() {
            // An index may leave a file out; the network then misses what is in it.
            assert_eq!(opened.unwrap().files().count(), 1);
            continue;
        }
        let error = opened.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(says), "{map}: {error}");
    }
}

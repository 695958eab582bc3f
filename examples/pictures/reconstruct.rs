//! What autoencoders keep: originals above reconstructions, and errors as a table.
//!
//! ```toml
//! name = "reconstructions"
//! title = "Emoji that were not trained on, through autoencoders"
//! recipe = "policies/emoji-flow/recipe-ae.toml"
//! features = "runs/emoji-features"      # the net of the perceptual and the Fréchet distance
//! count = 10                            # columns of the sheet
//! measured = 500                        # pictures of the table
//! enlarged = 1
//! [[autoencoder]]
//! name = "KL"
//! model = "policies/emoji-flow/vae"
//! ```
//! Shown and measured are pictures that are held out, if there are any; the Fréchet distance is that of
//! reconstructions from the same originals.

use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use pathline::plot::{Row, Sheet};
use pathline::train::quality;
use pathline::vae::{Autoencoder, features::FeatureNet, loss};
use pathline::{Result, device};
use serde::Deserialize;

use crate::common::{Cell, Table, data_tile, features, in_batches, spread, tiles};
use crate::plan;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    name: String,
    title: String,
    recipe: PathBuf,
    features: Option<PathBuf>,
    count: usize,
    measured: usize,
    enlarged: usize,
    autoencoder: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    model: PathBuf,
}

pub(crate) fn run(out: &Path, plan: &Plan) -> Result<()> {
    let pictures = plan::pictures(&plan.recipe)?;
    let training = pictures.training();
    let seen = if pictures.held_out.is_empty() { &training } else { &pictures.held_out };
    let shown = spread(seen, plan.count);
    let originals = pictures.batch(&shown)?;
    let few = spread(seen, plan.measured);
    let x = pictures.batch(&few)?;
    let cpu = device::cpu();
    let net = plan.features.as_deref().map(|path| FeatureNet::open(path, &cpu));
    let net = net.transpose()?;

    let first = shown.iter().map(|i| data_tile(&pictures, *i)).collect::<Result<_>>()?;
    let mut rows = vec![Row { name: "original".into(), tiles: first }];
    let mut table = Table {
        columns: vec![
            "autoencoder",
            "latents",
            "PSNR, dB",
            "mean error, levels of 255",
            "distance in features",
            "Fréchet distance, own features",
        ],
        keys: vec!["name", "latents", "psnr_db", "l1_levels", "perceptual", "frechet_own"],
        rows: Vec::new(),
    };
    let entries = plan.autoencoder.iter().filter(|entry| plan::is_there(&entry.name, &entry.model));
    for entry in entries {
        let coder = Autoencoder::open(&entry.model, &cpu)?;
        let through = |x: &Tensor| -> Result<Tensor> {
            Ok(coder.decode(&coder.encode(x, None)?)?.clamp(-1f32, 1f32)?)
        };
        rows.push(Row { name: entry.name.clone(), tiles: tiles(&through(&originals)?)? });
        let made = in_batches(&x, through)?;
        let gap = (&made - &x)?.to_dtype(DType::F64)?;
        let squared = gap.sqr()?.mean_all()?.to_scalar::<f64>()?;
        let l1 = gap.abs()?.mean_all()?.to_scalar::<f64>()?;
        let (perceptual, frechet) = match &net {
            Some(net) => {
                let n = few.len();
                let both = Tensor::cat(&[&x, &made], 1)?;
                let c = pictures.channels;
                let distance = in_batches(&both, |both| {
                    loss::perceptual(net, &both.narrow(1, 0, c)?, &both.narrow(1, c, c)?)
                })?;
                let mean = distance.to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>()?;
                let (a, b) = (features(net, &x)?, features(net, &made)?);
                (mean, if n > 1 { quality::frechet_distance(&a, &b)? } else { f64::NAN })
            }
            None => (f64::NAN, f64::NAN),
        };
        let [h, w] = pictures.size;
        let f = coder.downsampling();
        table.rows.push(vec![
            Cell::Text(entry.name.clone()),
            Cell::Text(format!("{}×{}×{}", h / f, w / f, coder.latent_channels())),
            // The range −1 … 1 is 2 wide.
            Cell::Number(10.0 * (4.0 / squared.max(1e-12)).log10(), 2),
            Cell::Number(l1 * 127.5, 2),
            Cell::Number(perceptual, 4),
            Cell::Number(frechet, 4),
        ]);
    }
    let title = plan.title.clone();
    let sheet = Sheet { title, headers: Vec::new(), rows, enlarged: plan.enlarged };
    sheet.save(&out.join(format!("{}.png", plan.name)))?;
    table.save(out, &plan.name)
}

//! `pathline sample`: pictures from a model folder.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use pathline::image::parameters::sampler_name;
use pathline::image::{Pictures, Pipeline, Request, Settings, output, pixels};
use pathline::{device, node::Stop};
use serde_json::json;

use super::dtype::DtypeArgs;
use super::sample_input::Inputs;
use super::sample_output::Output;
use super::sample_progress::{Bar, Preview, seconds};
use super::sample_wish::Wish;
use super::{interrupt, machine, threads};

/// Draws pictures: from a prompt, a class, a map of classes, or another picture.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  pathline sample --prompt \"red apple\" --seed 7 -o apple.png
  pathline sample --prompt \"green heart\" --batch-count 16 -o hearts.png     one file: a grid
  pathline sample --prompt \"green heart\" --batch-count 16 -o heart-%02d.png   a file each
  pathline sample --model policies/fashion-flow --class sneaker -o sneaker.png

  the same picture with more guidance, and with another sampler:
  pathline sample --from-image apple.png --cfg-scale 6 -o apple-6.png
  pathline sample --from-image apple.png --sampling-method heun --steps 8 -o apple-heun.png

  another picture as the beginning, and only a part of it drawn anew:
  pathline sample --prompt \"green apple\" --init-img apple.png --strength 0.6 -o green.png
  pathline sample --prompt \"worm\" --init-img apple.png --mask hole.png -o worm.png

  any Stable Diffusion 1.x or 2.x folder in diffusers' layout:
  pathline sample --model ~/sd15 --prompt \"a lighthouse\" --steps 20 --cfg-scale 7 \\
    --sampling-method dpmpp_2m --scheduler karras --preview now.png -o lighthouse.png

`pathline inspect apple.png` prints the settings that a picture holds.")]
pub(crate) struct SampleArgs {
    /// Where the pictures go: a .png (a grid if there are several), a .png with %d or {} in its name
    /// (a file each, numbered), or a folder (a file each, named by its seed).
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// Repeat the settings that this PNG holds; flags go over them.
    #[arg(long, value_name = "F")]
    from_image: Option<PathBuf>,
    #[command(flatten)]
    wish: Wish,
    /// Write what the sampler ended with: latents, and image f32 [batch, 3, H, W] from -1 to 1.
    #[arg(long, value_name = "F", help_heading = "Output files")]
    save_latents: Option<PathBuf>,
    /// Half-done pictures while it runs; with %d or {} in its name a file a time.
    #[arg(long, value_name = "PATH", help_heading = "Output files")]
    preview: Option<PathBuf>,
    /// Steps from one preview to the next.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Output files")]
    preview_interval: usize,
    /// Write no settings into the PNG.
    #[arg(long, help_heading = "Output files")]
    disable_image_metadata: bool,
    #[command(flatten, next_help_heading = "Options")]
    dtype: DtypeArgs,
    /// Threads to compute with; all that there are if absent.
    #[arg(short, long, value_name = "N", help_heading = "Options")]
    threads: Option<usize>,
    /// Print one JSON object.
    #[arg(long, help_heading = "Options")]
    json: bool,
}

pub(crate) fn run(args: &SampleArgs) -> anyhow::Result<()> {
    if let Some(count) = args.threads {
        threads::set(count)?;
    }
    let started = Instant::now();
    let stop = interrupt::stop_on_signal()?;
    ensure!(args.preview_interval > 0, "--preview-interval: expected at least 1, got 0");
    let mut wish = args.wish.clone();
    if let Some(path) = &args.from_image {
        wish = wish.over(Wish::stored(path)?);
    }
    wish.check()?;
    // What is wrong with files is said before the model is read, and long before it has worked.
    let inputs = Inputs::read(&wish)?;
    let batch_count = wish.batch_count.or(inputs.batch_count()).unwrap_or(1);
    let output = Output::new(&args.output, batch_count, wish.seed())?;
    let preview = args.preview.as_ref().map(|path| Preview::new(path, args.preview_interval));
    let others = [
        ("--preview", preview.as_ref().map(|preview| preview.file(0))),
        ("--save-latents", args.save_latents.clone()),
    ];
    output.check(&args.output, &others)?;

    let pipeline = args.dtype.load(|| Pipeline::open(wish.model(), &device::cpu()))?;
    let load_s = started.elapsed().as_secs_f64();
    let mut files = Settings::default();
    inputs.name_in(&mut files);
    let request = request(&wish, batch_count, inputs, pipeline.size())?;
    let Drawn { pictures: drawn, step_s } = draw(&pipeline, &request, preview.as_ref(), &stop)?;
    let sample_s = started.elapsed().as_secs_f64() - load_s;
    if !drawn.cut.is_empty() {
        let start: String = drawn.cut.chars().take(60).collect();
        let rest = if start.len() < drawn.cut.len() { "…" } else { "" };
        eprintln!("note: the prompt is too long for the model, which did not read: {start}{rest}");
    }
    let settings = Settings {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        model: wish.model().display().to_string(),
        init_image: files.init_image,
        mask: files.mask,
        segmentation: files.segmentation,
        latents: files.latents,
        ..drawn.settings
    };
    if let Some(path) = &args.save_latents {
        let tensors = HashMap::from([("latents", &drawn.latents), ("image", &drawn.image)]);
        let bytes = safetensors::serialize(tensors, None).context("--save-latents")?;
        output::write(path, &bytes)?;
    }
    let with_settings = (!args.disable_image_metadata).then_some(&settings);
    output.write(&pixels::pictures(&drawn.image)?, with_settings)?;

    let files: Vec<String> = output.files().iter().map(|path| path.display().to_string()).collect();
    if args.json {
        let summary = json!({
            "files": files,
            "settings": settings,
            "evaluations": drawn.evaluations,
            "load_s": load_s,
            "sample_s": sample_s,
            "step_s": step_s,
            "stages_s": drawn.seconds,
            "threads": threads::used(),
            "peak_memory_mb": machine::peak_memory_mb(),
        });
        println!("{summary}");
    } else {
        print_summary(&files, &settings, drawn.evaluations, [load_s, sample_s]);
    }
    Ok(())
}

fn print_summary(files: &[String], settings: &Settings, evaluations: usize, [load, all]: [f64; 2]) {
    let Settings { seed, batch_count, size: [height, width], .. } = settings;
    let names = match files {
        [first, .., last] => format!("{first} … {last}"),
        files => files.concat(),
    };
    let last = seed.wrapping_add(*batch_count as u64).wrapping_sub(1);
    let seeds = match batch_count {
        1 => format!("seed {seed}"),
        n => format!("{n} pictures, seeds {seed} to {last}"),
    };
    println!("wrote {names}: {width}×{height}, {seeds}");
    println!(
        "{}: {} {} steps, {} schedule, guidance {}, {evaluations} evaluations in {}; loaded in {}",
        settings.model,
        settings.steps,
        settings.sampling_method,
        settings.schedule,
        settings.cfg_scale,
        seconds(all),
        seconds(load)
    );
}

/// The pipeline's request; what was read comes at the size of the picture.
fn request(
    wish: &Wish,
    batch_count: usize,
    inputs: Inputs,
    [height, width]: [usize; 2],
) -> anyhow::Result<Request> {
    let size = [wish.height.unwrap_or(height), wish.width.unwrap_or(width)];
    let tensors = inputs.tensors(size, &device::cpu())?;
    Ok(Request {
        prompt: wish.prompt.clone(),
        negative_prompt: wish.negative_prompt.clone(),
        class: wish.class.clone(),
        seed: wish.seed(),
        batch_count,
        size: Some(size),
        steps: wish.steps,
        sampling_method: wish.sampling_method.as_deref().map(sampler_name),
        schedule: wish.scheduler.clone(),
        cfg_scale: wish.cfg_scale,
        guidance_rescale: wish.guidance_rescale.unwrap_or(0.0),
        eta: wish.eta.unwrap_or(0.0),
        vae_tiling: wish.vae_tiling,
        strength: wish.strength(),
        init_image: tensors.init_image,
        mask: tensors.mask,
        segmentation: tensors.segmentation,
        latents: tensors.latents,
        step_noise: tensors.step_noise,
        ..Request::default()
    })
}

struct Drawn {
    pictures: Pictures,
    /// Median time of a step, without the first, which warms up.
    step_s: f64,
}

/// Samples until it is done or asked to stop; then nothing is kept.
fn draw(
    pipeline: &Pipeline,
    request: &Request,
    preview: Option<&Preview>,
    stop: &Stop,
) -> anyhow::Result<Drawn> {
    let mut bar = Bar::new();
    let (mut steps, mut times) = (0, Vec::new());
    let pictures = pipeline.sample(request, &mut |progress| {
        steps = progress.steps;
        times.push(progress.elapsed.as_secs_f64());
        bar.tick(progress.step, progress.steps, progress.elapsed);
        if stop.is_set() {
            return Ok(ControlFlow::Break(()));
        }
        preview.map_or(Ok(()), |preview| preview.show(progress))?;
        Ok(ControlFlow::Continue(()))
    });
    bar.finish();
    let made = times.len();
    ensure!(!stop.is_set(), "interrupted after {made} of {steps} steps; nothing was written");
    let mut each: Vec<f64> = times.windows(2).map(|two| two[1] - two[0]).collect();
    each.extend(times.first().filter(|_| made == 1));
    each.sort_by(f64::total_cmp);
    let step_s = each.get(each.len() / 2).copied().unwrap_or(0.0);
    Ok(Drawn { pictures: pictures?, step_s })
}

//! The policy's picture against gym-pusht's own, and the picture for people.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use pathline_sim::pusht::PushT;
use pathline_sim::pusht::render::{Frame, Overlay, observation, observation_at, scene, scene_at};

const BYTES: usize = 96 * 96 * 3;

struct Golden {
    what: String,
    agent: [f64; 2],
    block: [f64; 3],
    rgb: Vec<u8>,
}

/// The frames of tests/golden/pusht_render.py, or those of the folder in PATHLINE_RENDER_GOLDEN.
fn golden() -> Vec<Golden> {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
    let folder = std::env::var("PATHLINE_RENDER_GOLDEN").unwrap_or_else(|_| committed.to_owned());
    let folder = Path::new(&folder);
    let text = std::fs::read_to_string(folder.join("pusht_render.json")).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let file = File::open(folder.join("pusht_render.png")).unwrap();
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.color_type), (96, png::ColorType::Rgb));
    let frames = document["frames"].as_array().unwrap();
    assert_eq!(pixels.len(), frames.len() * BYTES);
    let number = |v: &serde_json::Value| v.as_f64().unwrap();
    frames
        .iter()
        .zip(pixels.chunks_exact(BYTES))
        .map(|(frame, rgb)| Golden {
            what: frame["what"].as_str().unwrap().to_owned(),
            agent: std::array::from_fn(|i| number(&frame["agent"][i])),
            block: std::array::from_fn(|i| number(&frame["block"][i])),
            rgb: rgb.to_vec(),
        })
        .collect()
}

/// Mean absolute difference in levels, and the number of pixels that differ by more than one level.
fn difference(ours: &Frame, theirs: &[u8]) -> (f64, usize) {
    assert_eq!((ours.width, ours.height, ours.rgb.len()), (96, 96, theirs.len()));
    let levels: Vec<u8> = ours.rgb.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).collect();
    let mean = levels.iter().map(|&v| f64::from(v)).sum::<f64>() / theirs.len() as f64;
    let pixels = levels.chunks_exact(3).filter(|levels| levels.iter().any(|&v| v > 1)).count();
    (mean, pixels)
}

/// Measured over 240 frames of agents that run after the block (gym-pusht 0.1.8): 231 are equal byte
/// by byte, one is off by one level in one channel, 8 differ in one to five pixels. Those eight have
/// the T partly outside the walls, where pygame clips outlines and Chipmunk's wall contacts turn.
#[test]
fn observation_is_gym_pushts_picture() {
    for Golden { what, agent, block, rgb } in golden() {
        let (mean, pixels) = difference(&observation_at(agent, block), &rgb);
        println!("{what:36} mean {mean:.5} pixels {pixels}");
        let allowed = if what.starts_with("squeezed") { 6 } else { 0 };
        assert!(pixels <= allowed, "{what}: {pixels} pixels differ, {allowed} may");
        assert!(mean < 0.05, "{what}: mean difference {mean}");
    }
}

#[test]
fn resets_look_as_gyms_do() {
    let golden = golden();
    for seed in [0, 1] {
        let theirs = golden.iter().find(|g| g.what == format!("reset, seed {seed}")).unwrap();
        assert!(observation(&PushT::reset(seed)).rgb == theirs.rgb, "seed {seed}");
    }
}

#[test]
fn the_goal_that_is_drawn_is_the_goal_that_is_scored() {
    let [x, y, angle_rad] = PushT::GOAL_POSE;
    let solved = PushT::at_rest([60.0, 60.0, x, y, angle_rad]);
    assert!(solved.coverage() > 0.999);
    let picture = observation(&solved);
    let green = |p: &[u8]| i32::from(p[1]) > i32::from(p[0]).max(i32::from(p[2])) + 40;
    let visible = picture.rgb.chunks_exact(3).filter(|p| green(p)).count();
    assert_eq!(visible, 0, "a solved block hides the whole goal");
    assert!(scene(&solved, 64, &Overlay::default()).rgb.len() == 64 * 64 * 3);
}

#[test]
fn a_block_half_a_pixel_off_is_noticed() {
    for Golden { what, agent, block, rgb } in golden() {
        let moved = [block[0] + 0.6, block[1] + 0.6, block[2]];
        let (_, pixels) = difference(&observation_at(agent, moved), &rgb);
        assert!(pixels > 20, "{what}: only {pixels} pixels tell");
    }
}

#[test]
fn scene_shows_what_the_policy_intends() {
    let (agent, block) = ([130.0, 380.0], [250.0, 300.0, 0.6]);
    let chunk: Vec<[f64; 2]> = (0..16)
        .map(|i| {
            let t = f64::from(i) / 15.0;
            [140.0 + 170.0 * t, 380.0 - 60.0 * t - 90.0 * t * t]
        })
        .collect();
    let trails = chunk
        .iter()
        .enumerate()
        .map(|(i, &[x, y])| {
            let noise =
                [256.0 + 190.0 * (i as f64 * 2.4).sin(), 256.0 + 190.0 * (i as f64 * 1.7).cos()];
            (0..=10)
                .map(|k| {
                    let t = f64::from(k) / 10.0;
                    [noise[0] + (x - noise[0]) * t, noise[1] + (y - noise[1]) * t * (2.0 - t)]
                })
                .collect()
        })
        .collect();
    let overlay = Overlay {
        action: Some([150.0, 372.0]),
        chunk: chunk.clone(),
        trails,
        caption: "seed 7  step 42  coverage 0.31".to_owned(),
    };
    for (size, coverage, name) in [(256, 0.31, "small"), (320, 0.97, "gif"), (680, 0.31, "large")] {
        let plain = scene_at(agent, block, coverage, size, &Overlay::default());
        let drawn = scene_at(agent, block, coverage, size, &overlay);
        for (frame, kind) in [(&plain, "plain"), (&drawn, "overlay")] {
            assert_eq!((frame.width, frame.height), (size, size));
            assert_eq!(frame.rgb.len(), (size * size * 3) as usize);
            save_if_asked(frame, &format!("scene-{name}-{kind}"));
        }
        let at = |frame: &Frame, [x, y]: [f64; 2]| {
            let to_pixel = |v: f64| (v * f64::from(size) / 512.0) as usize;
            let start = (to_pixel(y) * size as usize + to_pixel(x)) * 3;
            [frame.rgb[start], frame.rgb[start + 1], frame.rgb[start + 2]]
        };
        let [r, _, b] = at(&plain, agent);
        assert!(b > 200 && r < 100, "the agent is blue");
        let [first, last] = [chunk[3], chunk[15]].map(|row| at(&drawn, row));
        assert!(first[0] > 200 && first[2] < 120, "rows of now are orange, not {first:?}");
        assert!(last[2] > 200 && last[1] < 90, "rows of later are violet, not {last:?}");
        let changed = plain.rgb.chunks(3).zip(drawn.rgb.chunks(3)).filter(|(a, b)| a != b).count();
        assert!(changed > (size * size / 50) as usize, "the overlay paints {changed} pixels");
    }
}

#[test]
fn scene_survives_what_is_not_finite() {
    let overlay = Overlay { chunk: vec![[f64::NAN, 0.0], [1e300, 1.0]], ..Overlay::default() };
    let frame = scene_at([f64::NAN, 1.0], [0.0, f64::INFINITY, 0.0], f64::NAN, 64, &overlay);
    assert_eq!(frame.rgb.len(), 64 * 64 * 3);
    assert_eq!(observation_at([f64::NAN, 1e300], [f64::NAN, 0.0, -1e300]).rgb.len(), BYTES);
}

/// PATHLINE_PICTURES=DIR keeps the pictures for a look at them.
fn save_if_asked(frame: &Frame, name: &str) {
    let Ok(folder) = std::env::var("PATHLINE_PICTURES") else { return };
    let file = File::create(Path::new(&folder).join(format!("{name}.png"))).unwrap();
    let mut encoder = png::Encoder::new(file, frame.width, frame.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(&frame.rgb).unwrap();
}

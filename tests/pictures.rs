//! Picture data sets: the known packages where they are installed, excerpts everywhere, bad files.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::path::Path;

use pathline::dataset::pictures::{Checksum, Pictures, PicturesConfig};

const HELD_OUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/policies/emoji-flow/held-out.txt");

fn config(toml: &str) -> PicturesConfig {
    toml::from_str(toml).unwrap()
}

/// Reads the set, or says which package is not installed.
fn installed(toml: &str) -> Option<Pictures> {
    let config = config(toml);
    let file = match &config {
        PicturesConfig::Emoji { font, .. } => font.clone(),
        PicturesConfig::FashionMnist { folder, .. } => folder.clone(),
        _ => return Some(Pictures::open(&config).unwrap()),
    };
    if file.exists() {
        return Some(Pictures::open(&config).unwrap());
    }
    let error = Pictures::open(&config).unwrap_err().to_string();
    assert!(error.contains("Debian's package"), "{error}");
    println!("skipped: {error}");
    None
}

/// With PATHLINE_PICTURES=FOLDER, a sheet of some pictures to look at.
fn sheet(pictures: &Pictures, name: &str, chosen: impl Iterator<Item = usize>) {
    let Ok(folder) = std::env::var("PATHLINE_PICTURES") else { return };
    let (chosen, c) = (chosen.take(200).collect::<Vec<_>>(), pictures.channels);
    let [h, w] = pictures.size;
    let columns = 16;
    let rows = chosen.len().div_ceil(columns);
    let mut bytes = vec![0; rows * h * columns * w * c];
    for (place, &index) in chosen.iter().enumerate() {
        let (left, top) = (place % columns * w, place / columns * h);
        for (y, row) in pictures.picture(index).unwrap().chunks_exact(w * c).enumerate() {
            let start = ((top + y) * columns * w + left) * c;
            bytes[start..start + w * c].copy_from_slice(row);
        }
    }
    let file = std::fs::File::create(Path::new(&folder).join(format!("{name}.png"))).unwrap();
    let mut encoder = png::Encoder::new(file, (columns * w) as u32, (rows * h) as u32);
    encoder.set_color(if c == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.write_header().unwrap().write_image_data(&bytes).unwrap();
}

#[test]
fn every_emoji_has_its_picture() {
    let toml = format!("source = \"emoji\"\nsize = 32\nheld_out = {HELD_OUT:?}");
    let Some(pictures) = installed(&toml) else { return };
    assert_eq!((pictures.len(), pictures.size, pictures.channels), (3655, [32, 32], 3));
    assert_eq!(pictures.labels.len(), 3655);
    assert_eq!((pictures.captions.len(), pictures.classes.len()), (3655, 99));
    let mean = |name: &str| {
        let at = pictures.captions.iter().position(|c| c == name).unwrap();
        let pixels = pictures.picture(at).unwrap();
        let sum =
            |c: usize| -> u32 { pixels.iter().skip(c).step_by(3).map(|v| u32::from(*v)).sum() };
        [0, 1, 2].map(|c| sum(c) / 1024)
    };
    let [r, g, b] = mean("red apple");
    assert!(r > g + 20 && r > b + 20, "{r} {g} {b}");
    let [r, g, b] = mean("green heart");
    assert!(g > r + 20 && g > b + 20, "{r} {g} {b}");
    // Tones of one drawing get darker.
    let tones = ["light", "medium-light", "medium", "medium-dark", "dark"];
    let light = tones.map(|t| mean(&format!("woman firefighter: {t} skin tone"))[2]);
    assert!(light.windows(2).all(|pair| pair[0] >= pair[1]), "{light:?}");
    assert!(light[0] > light[4] + 10, "{light:?}");
    sheet(&pictures, "emoji", pictures.held_out.iter().copied());
}

#[test]
fn what_is_held_out_is_made_of_known_parts() {
    let toml = format!("source = \"emoji\"\nsize = 16\nheld_out = {HELD_OUT:?}");
    let Some(pictures) = installed(&toml) else { return };
    let training = pictures.training();
    assert_eq!(training.len() + pictures.held_out.len(), pictures.len());
    assert!(pictures.held_out.len() >= 60, "{}", pictures.held_out.len());
    let words = |caption: &str| -> Vec<String> {
        caption.split(|c: char| c == ' ' || c == ':' || c == ',').map(str::to_owned).collect()
    };
    let known: BTreeSet<String> =
        training.iter().flat_map(|i| words(&pictures.captions[*i])).collect();
    let drawn: BTreeSet<&[u8]> = training.iter().map(|i| pictures.picture(*i).unwrap()).collect();
    for &i in &pictures.held_out {
        let caption = &pictures.captions[i];
        for word in words(caption) {
            assert!(known.contains(&word), "{caption}: {word:?} is in no training caption");
        }
        assert!(!drawn.contains(pictures.picture(i).unwrap()), "{caption} is drawn twice");
    }
}

#[test]
fn another_font_is_refused_by_name() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let emoji = |checksum: &str| {
        let toml =
            format!("source = \"emoji\"\nsize = 32\nfont = {file:?}\nchecksum = {checksum:?}");
        Pictures::open(&config(&toml)).unwrap_err().to_string()
    };
    let error = emoji("known");
    for part in ["Cargo.toml", "fonts-noto-color-emoji", "2.042", "SHA-256", "checksum"] {
        assert!(error.contains(part), "{error}");
    }
    let _ = Checksum::Any;
}

#[test]
fn pusht_pictures_and_maps_agree() {
    let pictures = installed("source = \"pusht\"\nsize = 64\ncount = 32\nseed = 5").unwrap();
    assert_eq!((pictures.len(), pictures.maps.len()), (32, 32 * 64 * 64));
    assert_eq!(pictures.map_classes, ["background", "wall", "goal", "block", "agent"]);
    sheet(&pictures, "pusht", 0..32);
    let colors = [
        [247, 248, 250],
        [171, 180, 194],
        [150, 220, 165],
        [112, 128, 150],
        [59, 111, 224],
        [60, 72, 92],
        [24, 52, 140],
    ];
    for i in 0..32 {
        let (pixels, map) = (pictures.picture(i).unwrap(), pictures.map(i).unwrap());
        for (pixel, class) in pixels.chunks_exact(3).zip(map) {
            // A pixel of one colour is of that colour's class.
            if let Some(shown) = colors.iter().position(|color| pixel == color) {
                let shown = match shown {
                    5 => 3,
                    6 => 4,
                    shown => shown,
                };
                assert_eq!(shown, usize::from(*class));
            }
        }
        let area = |class: u8| map.iter().filter(|c| **c == class).count();
        // 6300 and 707 px of the world, 64 a pixel of the picture.
        assert!((85..=112).contains(&area(3)), "block {}", area(3));
        assert!((7..=16).contains(&area(4)), "agent {}", area(4));
        assert!(area(1) > 200 && area(0) > 3000);
    }
    let maps = pictures.map_batch(&[3, 4]).unwrap();
    assert_eq!(maps.dims(), [2, 64, 64]);
    let again = installed("source = \"pusht\"\nsize = 64\ncount = 2\nseed = 6").unwrap();
    assert_eq!(again.picture(0), pictures.picture(1));
    assert!(Pictures::open(&config("source = \"pusht\"\nsize = 48\ncount = 2\nseed = 6")).is_err());
}

#[test]
fn fashion_has_ten_classes() {
    for (split, count) in [("train", 60_000), ("test", 10_000)] {
        let toml = format!("source = \"fashion_mnist\"\nsize = 32\nsplit = {split:?}");
        let Some(pictures) = installed(&toml) else { return };
        assert_eq!((pictures.len(), pictures.channels), (count, 1));
        for class in 0..10 {
            let members = pictures.labels.iter().filter(|label| **label == class).count();
            assert_eq!(members, count / 10);
        }
        assert_eq!(pictures.classes[7], "sneaker");
        sheet(&pictures, split, 0..96);
        // Two black pixels around the 28.
        assert!(pictures.picture(0).unwrap()[..66].iter().all(|v| *v == 0));
        let batch = pictures.batch(&[0, count - 1]).unwrap();
        assert_eq!(batch.dims(), [2, 1, 32, 32]);
        let values: Vec<f32> = batch.flatten_all().unwrap().to_vec1().unwrap();
        assert!(values.iter().all(|v| (-1.0..=1.0).contains(v)));
        assert!(pictures.batch(&[count]).is_err());
    }
}

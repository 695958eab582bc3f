//! Picture data sets: the known packages where they are installed, excerpts everywhere, bad files.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use pathline::dataset::pictures::{Pictures, PicturesConfig};

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
    eprintln!("skipped: {error}");
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

/// All emoji, read once for all tests.
fn all_emoji() -> Option<&'static Pictures> {
    static ALL: OnceLock<Option<Pictures>> = OnceLock::new();
    let toml = format!("source = \"emoji\"\nsize = 32\nheld_out = {HELD_OUT:?}");
    ALL.get_or_init(|| installed(&toml)).as_ref()
}

#[test]
fn every_emoji_has_its_picture() {
    let Some(pictures) = all_emoji() else { return };
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
    sheet(pictures, "emoji", pictures.held_out.iter().copied());
}

#[test]
fn what_is_held_out_is_made_of_known_parts() {
    let Some(pictures) = all_emoji() else { return };
    let training = pictures.training();
    assert_eq!(training.len() + pictures.held_out.len(), pictures.len());
    assert!(pictures.held_out.len() >= 60, "{}", pictures.held_out.len());
    let words = |caption: &str| -> Vec<String> {
        caption.split([' ', ':', ',']).map(str::to_owned).collect()
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

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/pictures").join(name)
}

#[test]
fn an_excerpt_of_the_font_gives_numpys_pictures() {
    let (font, names) = (data("emoji.ttf"), data("emoji-test.txt"));
    let read = |extra: &str| {
        let toml =
            format!("source = \"emoji\"\nsize = 32\nfont = {font:?}\nnames = {names:?}\n{extra}");
        Pictures::open(&config(&toml))
    };
    assert!(read("").unwrap_err().to_string().contains("SHA-256"));
    let pictures = read("checksum = \"any\"").unwrap();
    assert_eq!(pictures.len(), 14);
    assert_eq!(pictures.captions[6], "woman firefighter: medium skin tone");
    assert_eq!(pictures.captions[13], "flag: england");
    assert_eq!(pictures.classes[pictures.labels[7] as usize], "food-fruit");
    let expected = std::fs::read(data("emoji-32.bin")).unwrap();
    assert_eq!(expected.len(), pictures.pixels.len());
    let off = expected.iter().zip(&pictures.pixels).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    println!("largest difference from numpy: {off} of 255");
    assert!(off <= 1, "{off}");

    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("held-out.txt");
    let held_out = |text: &str| {
        std::fs::write(&list, text).unwrap();
        read(&format!("checksum = \"any\"\nheld_out = {list:?}"))
    };
    let pictures = held_out("# comment\n\nGreen Apple\nflag: england\n").unwrap();
    assert_eq!(pictures.held_out, [8, 13]);
    assert_eq!(pictures.training(), [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12]);
    let error = held_out("green apple\nblue apple\n").unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("blue apple"), "{error}");
}

#[test]
fn an_excerpt_of_fashion_mnist_is_read_and_a_broken_one_is_not() {
    let read = |folder: &Path| {
        let toml = format!(
            "source = \"fashion_mnist\"\nsize = 32\nsplit = \"test\"\nfolder = {folder:?}\nchecksum = \"any\""
        );
        Pictures::open(&config(&toml))
    };
    let both = format!(
        "source = \"fashion_mnist\"\nsize = 28\nsplit = \"both\"\nfolder = {:?}\nchecksum = \"any\"",
        data("fashion")
    );
    let both = Pictures::open(&config(&both)).unwrap();
    assert_eq!((both.len(), both.training().len(), both.held_out[0]), (200, 100, 100));
    let pictures = read(&data("fashion")).unwrap();
    assert_eq!((pictures.len(), pictures.labels.len()), (100, 100));
    assert_eq!(pictures.labels, both.labels[100..]);
    // The test half begins with an ankle boot, a pullover and two trousers.
    assert_eq!(pictures.labels[..4], [9, 2, 1, 1]);
    let folder = tempfile::tempdir().unwrap();
    let error = read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("dataset-fashion-mnist"), "{error}");
    for name in ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"] {
        std::fs::copy(data("fashion").join(name), folder.path().join(name)).unwrap();
    }
    read(folder.path()).unwrap();
    let labels = folder.path().join("t10k-labels-idx1-ubyte.gz");
    for (bytes, expected) in [
        (gzip(&[0, 0, 8, 1, 0, 0, 0, 2, 1, 2]), "expected 100 labels"),
        (gzip(&[0, 0, 8, 1, 255, 255, 255, 255, 1]), "as many bytes"),
        (gzip(&[&[0, 0, 8, 1, 0, 0, 0, 100], &[11u8; 100][..]].concat()), "labels below 10"),
        (gzip(&vec![0; 1 << 20]), "at most 10008 bytes"),
        (b"no gzip at all".to_vec(), "gzip"),
    ] {
        std::fs::write(&labels, bytes).unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("labels-idx1"), "{error}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn folder(path: &Path, size: usize, extra: &str) -> pathline::Result<Pictures> {
    Pictures::open(&config(&format!(
        "source = \"folder\"\npath = {path:?}\nsize = {size}\n{extra}"
    )))
}

#[test]
fn a_folder_has_classes_and_captions() {
    let pictures = folder(&data("folder"), 32, "").unwrap();
    assert_eq!(pictures.captions, ["green apple", "red apple", "red heart", "woman firefighter"]);
    assert_eq!(pictures.classes, ["fruit", "heart", "person"]);
    assert_eq!(pictures.labels, [0, 0, 1, 2]);
    let pixels = pictures.picture(2).unwrap();
    let middle = &pixels[(16 * 32 + 16) * 3..][..3];
    assert!(middle[0] > 150 && middle[1] < 120, "{middle:?}");
    assert_eq!(pixels[..3], [255; 3]);
    assert_eq!(folder(&data("folder"), 16, "channels = 1").unwrap().pixels.len(), 4 * 256);
    // Larger than the file.
    assert_eq!(folder(&data("folder"), 256, "").unwrap().size, [256, 256]);

    // Files without folders have no classes; texts beside them are captions.
    let flat = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let to = flat.path().join(name).with_extension("png");
        std::fs::copy(data("folder/heart/red-heart.png"), to).unwrap();
    }
    let pictures = folder(flat.path(), 8, "").unwrap();
    assert!(pictures.captions.is_empty() && pictures.classes.is_empty());
    std::fs::write(flat.path().join("a.txt"), "a red heart\n").unwrap();
    let error = folder(flat.path(), 8, "").unwrap_err().to_string();
    assert!(error.contains("b.png") && error.contains("caption"), "{error}");
    let metadata = flat.path().join("metadata.jsonl");
    std::fs::write(&metadata, "{\"file_name\": \"./b.png\", \"text\": \"another\", \"x\": 1}\n")
        .unwrap();
    assert_eq!(folder(flat.path(), 8, "").unwrap().captions, ["a red heart", "another"]);
    for (text, expected) in [
        ("{\"file_name\": \"c.png\", \"text\": \"none\"}", "c.png"),
        ("{\"file_name\": \"../b.png\", \"text\": \"none\"}", "../b.png"),
        ("{\"file_name\": \"b.png\"}", "line 1"),
        ("not json", "line 1"),
        (
            "{\"file_name\":\"b.png\",\"text\":\"x\"}\n{\"file_name\":\"b.png\",\"text\":\"y\"}",
            "twice",
        ),
    ] {
        std::fs::write(&metadata, text).unwrap();
        let error = folder(flat.path(), 8, "").unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("metadata.jsonl"), "{error}");
    }
}

/// A PNG chunk with its sum.
fn chunk(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(body);
    let length = (body.len() as u32).to_be_bytes();
    [&length[..], kind, body, &crc.sum().to_be_bytes()].concat()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn png_file(width: u32, height: u32, depth_and_color: [u8; 2], chunks: &[Vec<u8>]) -> Vec<u8> {
    let [depth, color] = depth_and_color;
    let header =
        [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, color, 0, 0, 0]].concat();
    let body = [chunk(b"IHDR", &header), chunks.concat(), chunk(b"IEND", &[])].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &body].concat()
}

#[test]
fn hostile_pictures_are_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.png");
    let read = |bytes: Vec<u8>| {
        std::fs::write(&path, bytes).unwrap();
        folder(dir.path(), 8, "")
    };
    // The twin that is sound: 2×2 grey and a comment.
    let rows = || chunk(b"IDAT", &zlib(&[0, 1, 2, 0, 3, 4]));
    let sound = png_file(2, 2, [8, 0], &[chunk(b"tEXt", b"a\0b"), rows()]);
    assert!(read(sound.clone()).is_ok());
    // A text of 64 MiB is skipped, not unpacked.
    let bomb = [&b"a\0\0"[..], &zlib(&vec![b'x'; 64 << 20])].concat();
    assert!(read(png_file(2, 2, [8, 0], &[chunk(b"zTXt", &bomb), rows()])).is_ok());

    let huge = png_file(100_000, 100_000, [8, 6], &[rows()]);
    let wide = png_file(u32::MAX >> 1, 1, [16, 6], &[rows()]);
    let short = png_file(3000, 3000, [8, 2], &[rows()]);
    let empty = png_file(0, 2, [8, 0], &[rows()]);
    let without_data = png_file(2, 2, [8, 0], &[]);
    let without_palette = png_file(2, 2, [8, 3], &[rows()]);
    let cut = sound[..sound.len() - 20].to_vec();
    let mut flipped = sound.clone();
    flipped[20] ^= 1;
    let not_deflate = png_file(2, 2, [8, 0], &[chunk(b"IDAT", b"not deflate")]);
    let cases = [
        ("huge", huge, "at most 33554432 pixels"),
        ("wide", wide, "at most 33554432 pixels"),
        ("short", short, "PNG"),
        ("empty", empty, "PNG"),
        ("without data", without_data, "PNG"),
        ("without palette", without_palette, "PNG"),
        ("cut", cut, "PNG"),
        ("flipped", flipped, "PNG"),
        ("not deflate", not_deflate, "PNG"),
        ("a text", b"hello".to_vec(), "PNG"),
        ("nothing", Vec::new(), "PNG"),
    ];
    for (name, bytes, expected) in cases {
        let error = read(bytes).expect_err(name).to_string();
        assert!(error.contains(expected) && error.contains("x.png"), "{name}: {error}");
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    let heart = data("folder");
    for (size, extra) in [(0, ""), (3, ""), (100_000, ""), (8, "channels = 2"), (8, "channels = 4")]
    {
        assert!(folder(&heart, size, extra).is_err(), "{size} {extra}");
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(folder(empty.path(), 8, "").unwrap_err().to_string().contains(".png"));
    assert!(folder(&empty.path().join("none"), 8, "").is_err());
    for bad in [
        "source = \"fashion_mnist\"\nsize = 27",
        "source = \"pusht\"\nsize = 64\ncount = 0\nseed = 0",
        "source = \"pusht\"\nsize = 64\ncount = 100000000000\nseed = 0",
    ] {
        assert!(Pictures::open(&config(bad)).is_err(), "{bad}");
    }
    for bad in ["source = \"photos\"", "source = \"emoji\"\nsize = 8\ncolor = 3", "size = 8"] {
        assert!(toml::from_str::<PicturesConfig>(bad).is_err(), "{bad}");
    }
}

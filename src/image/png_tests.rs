use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::*;
use crate::image::png_text::SIGNATURE;

/// A chunk with its checksum.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(data);
    let len = (data.len() as u32).to_be_bytes();
    [&len[..], kind, data, &crc.sum().to_be_bytes()].concat()
}

fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// A file of these chunks between its header and its end.
fn file(size: [u32; 2], depth: u8, color: u8, interlaced: bool, chunks: &[Vec<u8>]) -> Vec<u8> {
    let [width, height] = size.map(u32::to_be_bytes);
    let head = [&width[..], &height, &[depth, color, 0, 0, u8::from(interlaced)]].concat();
    [SIGNATURE.to_vec(), chunk(b"IHDR", &head), chunks.concat(), chunk(b"IEND", &[])].concat()
}

/// Rows without a filter, packed.
fn idat(rows: &[&[u8]]) -> Vec<u8> {
    chunk(b"IDAT", &pack(&rows.iter().flat_map(|row| [&[0], *row].concat()).collect::<Vec<_>>()))
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, bytes: &[u8]) -> std::path::PathBuf {
        let path = self.0.path().join("a.png");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn rgb(&self, bytes: &[u8]) -> Vec<u8> {
        read(&self.put(bytes), 1000).unwrap().rgb
    }

    fn error(&self, bytes: &[u8]) -> String {
        let path = self.put(bytes);
        let error = read(&path, MAX_PIXELS).unwrap_err().to_string();
        assert!(error.contains("a.png: ") && !error.contains('\n'), "{error}");
        error
    }
}

#[test]
fn every_kind_of_pixel_becomes_rgb() {
    let folder = Folder::new();
    let rgb =
        |depth, color, chunks: &[Vec<u8>]| folder.rgb(&file([2, 1], depth, color, false, chunks));
    assert_eq!(rgb(8, 2, &[idat(&[&[1, 2, 3, 4, 5, 6]])]), [1, 2, 3, 4, 5, 6]);
    assert_eq!(rgb(8, 0, &[idat(&[&[7, 255]])]), [7, 7, 7, 255, 255, 255]);
    // Four bits: 15 is white. One bit: the first two of the byte.
    assert_eq!(rgb(4, 0, &[idat(&[&[0x1f]])]), [17, 17, 17, 255, 255, 255]);
    assert_eq!(rgb(1, 0, &[idat(&[&[0x40]])]), [0, 0, 0, 255, 255, 255]);
    let palette = chunk(b"PLTE", &[9, 8, 7, 1, 2, 3]);
    assert_eq!(rgb(8, 3, &[palette.clone(), idat(&[&[1, 0]])]), [1, 2, 3, 9, 8, 7]);
    // Transparent lies on white, half of black is grey.
    assert_eq!(
        rgb(8, 6, &[idat(&[&[9, 9, 9, 0, 0, 100, 200, 128]])]),
        [255, 255, 255, 127, 177, 227]
    );
    assert_eq!(rgb(8, 4, &[idat(&[&[0, 255, 0, 127]])]), [0, 0, 0, 128, 128, 128]);
    let see_through = chunk(b"tRNS", &[255, 0]);
    assert_eq!(rgb(8, 3, &[palette, see_through, idat(&[&[1, 0]])]), [255, 255, 255, 9, 8, 7]);
    // 16 bits are rounded: 0x017f is 1.49 of 257, 0x0181 is 1.50.
    assert_eq!(rgb(16, 0, &[idat(&[&[1, 0x7f, 1, 0x82]])]), [1, 1, 1, 2, 2, 2]);
    let deep = [0, 0, 0xff, 0xff, 0x80, 0, 0x80, 0, 1, 1, 2, 2, 3, 3, 0xff, 0xff];
    assert_eq!(rgb(16, 6, &[idat(&[&deep])]), [127, 255, 191, 1, 2, 3]);
}

#[test]
fn interlaced_pictures_are_whole() {
    let folder = Folder::new();
    let pixel = |x: usize, y: usize| [x as u8, y as u8, (x * y) as u8];
    let passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ];
    let (width, height) = (5, 7);
    let mut rows: Vec<Vec<u8>> = Vec::new();
    for (x0, y0, dx, dy) in passes {
        for y in (y0..height).step_by(dy) {
            let row: Vec<u8> = (x0..width).step_by(dx).flat_map(|x| pixel(x, y)).collect();
            rows.extend((!row.is_empty()).then_some(row));
        }
    }
    let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
    let bytes = file([5, 7], 8, 2, true, &[idat(&rows)]);
    let expected: Vec<u8> = (0..7).flat_map(|y| (0..5).flat_map(move |x| pixel(x, y))).collect();
    assert_eq!(folder.rgb(&bytes), expected);
}

#[test]
fn maps_keep_their_numbers() {
    let folder = Folder::new();
    let numbers = |bytes: &[u8]| read_numbers(&folder.put(bytes), 100);
    let palette = chunk(b"PLTE", &[9, 8, 7, 1, 2, 3, 4, 4, 4]);
    let map = numbers(&file([3, 1], 8, 3, false, &[palette.clone(), idat(&[&[2, 0, 1]])])).unwrap();
    assert_eq!((map.width, map.height, map.values), (3, 1, vec![2, 0, 1]));
    let map = numbers(&file([3, 1], 2, 3, false, &[palette, idat(&[&[0b10_00_01_11]])])).unwrap();
    assert_eq!(map.values, [2, 0, 1]);
    let map =
        numbers(&file([3, 2], 4, 0, false, &[idat(&[&[0x1f, 0x30], &[0x20, 0xef]])])).unwrap();
    assert_eq!(map.values, [1, 15, 3, 2, 0, 14]);
    let map = numbers(&file([2, 1], 16, 0, false, &[idat(&[&[0, 255, 0, 3]])])).unwrap();
    assert_eq!(map.values, [255, 3]);
    let error = numbers(&file([2, 1], 16, 0, false, &[idat(&[&[1, 0, 0, 3]])])).unwrap_err();
    assert!(error.to_string().contains("got 256"), "{error}");
    let error = numbers(&file([1, 1], 8, 2, false, &[idat(&[&[1, 1, 1]])])).unwrap_err();
    assert!(error.to_string().contains("palette or grey PNG, got Rgb"), "{error}");
}

#[test]
fn what_is_written_is_read_back() {
    let folder = Folder::new();
    let picture = Picture { width: 3, height: 2, rgb: (0..18).map(|i| i * 14).collect() };
    let texts = [
        Text::new("parameters", "crème\nSteps: 2"),
        Text::new("pathline", "{\"prompt\":\"林檎 🍎\"}"),
        Text::new("odd", "a\0b"),
    ];
    let path = folder.0.path().join("b.png");
    write(&path, &picture, &texts).unwrap();
    assert_eq!(read(&path, 6).unwrap(), picture);
    // Latin-1 comes first.
    let back = png_text::texts(&path).unwrap();
    assert_eq!([&back[0], &back[2]], [&texts[0], &texts[1]]);
    assert_eq!(back[1].text, "a b");
    assert_eq!(fs::read(&path).unwrap(), encode(&picture, &texts).unwrap());
    let bytes = fs::read(&path).unwrap();
    let count = |kind: &[u8]| bytes.windows(4).filter(|four| *four == kind).count();
    assert_eq!([count(b"tEXt"), count(b"iTXt")], [2, 1]);
    assert!(encode(&Picture { width: 4, ..picture.clone() }, &[]).is_err());
    assert!(encode(&Picture { width: 0, height: 0, rgb: vec![] }, &[]).is_err());
    assert!(encode(&picture, &[Text::new("k".repeat(80), "")]).is_err());
    assert!(encode(&picture, &[Text::new("", "")]).is_err());
}

#[test]
fn texts_of_others_are_read() {
    let folder = Folder::new();
    let itxt = |packed: u8, text: &[u8]| {
        chunk(b"iTXt", &[b"k\0", &[packed, 0][..], b"en\0word\0", text].concat())
    };
    let pixel = idat(&[&[0]]);
    let bytes = file(
        [1, 1],
        8,
        0,
        false,
        &[
            chunk(b"tEXt", b"Comment\0caf\xe9"),
            chunk(b"tEXt", "Comment\0café 林".as_bytes()),
            pixel,
            chunk(b"zTXt", &[b"z\0\0", &pack(b"packed")[..]].concat()),
            itxt(0, "ü".as_bytes()),
            itxt(1, &pack("林".as_bytes())),
        ],
    );
    let texts = png_text::texts(&folder.put(&bytes)).unwrap();
    let texts: Vec<_> = texts.iter().map(|t| (t.keyword.as_str(), t.text.as_str())).collect();
    assert_eq!(
        texts,
        [("Comment", "café"), ("Comment", "café 林"), ("z", "packed"), ("k", "ü"), ("k", "林")]
    );

    let error = |chunks: &[Vec<u8>]| {
        let path = folder.put(&file([1, 1], 8, 0, false, chunks));
        png_text::texts(&path).unwrap_err().to_string()
    };
    assert!(error(&[chunk(b"tEXt", b"no end")]).contains("NUL"));
    assert!(error(&[chunk(b"tEXt", b"\0x")]).contains("1 to 79"));
    assert!(error(&[itxt(0, b"\xff")]).contains("UTF-8"));
    assert!(error(&[itxt(2, b"")]).contains("whether it is packed"));
    assert!(error(&[chunk(b"zTXt", b"z\0\0nonsense")]).contains("unpacked"));
    // 64 MB in 64 kB.
    assert!(
        error(&[chunk(b"zTXt", &[b"z\0\0", &pack(&vec![0; 1 << 26])[..]].concat())])
            .contains("1048576")
    );
    assert!(error(&[chunk(b"tEXt", &vec![b'a'; 2 << 20])]).contains("1048576"));
    assert!(error(&vec![chunk(b"tEXt", b"a\0b"); 257]).contains("256"));
    let mut broken = chunk(b"tEXt", b"a\0b");
    broken[9] ^= 1;
    assert!(error(&[broken]).contains("checksum"));
    let bytes = file([1, 1], 8, 0, false, &[chunk(b"tEXt", b"a\0b")]);
    for len in 8..bytes.len() - 4 {
        let error = png_text::texts(&folder.put(&bytes[..len])).unwrap_err().to_string();
        assert!(error.contains("too early"), "{len}: {error}");
    }
}

#[test]
fn bombs_and_ruins_are_one_error() {
    let folder = Folder::new();
    let small = idat(&[&[0]]);
    let claims = |size| folder.error(&file(size, 8, 2, false, std::slice::from_ref(&small)));
    assert!(claims([1 << 30, 1 << 30]).contains("1073741824×1073741824"));
    assert!(claims([6000, 6000]).contains("at most 33554432 pixels, got 6000×6000"));
    assert!(claims([5000, 5000]).contains("cannot be in"));
    assert!(claims([0, 5]).contains("damaged"));
    assert!(claims([1, 2]).contains("damaged"));
    for (bytes, says) in [
        (&b""[..], "an empty file"),
        (b"\xff\xd8\xff\xe0....", "a JPEG file"),
        (b"RIFF....WEBP", "a WebP"),
        (b"PNG?", "something else"),
        (&SIGNATURE[..], "no header"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIDAT.........................", "no header"),
    ] {
        assert!(folder.error(bytes).contains(says), "{says}");
    }
    let rows: Vec<Vec<u8>> =
        (0..10u8).map(|i| (0..60).map(|j| i.wrapping_mul(j)).collect()).collect();
    let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
    let good = file([20, 10], 8, 2, false, &[idat(&rows)]);
    assert_eq!(folder.rgb(&good), rows.concat());
    for len in 8..good.len() - 12 {
        folder.error(&good[..len]);
    }
    // Any byte that is wrong is noticed: chunks have checksums.
    for at in 0..good.len() - 12 {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        let path = folder.put(&bytes);
        assert!(read(&path, MAX_PIXELS).is_err(), "byte {at}");
    }
    let missing = read(&folder.0.path().join("none.png"), 1).unwrap_err().to_string();
    assert!(missing.contains("none.png"), "{missing}");
    assert!(read(folder.0.path(), 1).unwrap_err().to_string().contains("a folder"));
    #[cfg(target_os = "linux")]
    assert!(read(Path::new("/dev/zero"), 1).unwrap_err().to_string().contains("neither"));
}

//! Where pictures go: one file, a file each, or a folder.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use pathline::image::png::Picture;
use pathline::image::{Settings, grid, output, parameters, png};

/// Names of the files of a batch.
#[derive(Debug, PartialEq)]
pub(crate) enum Output {
    /// One file: the picture, or a grid.
    One(PathBuf),
    /// A file a picture.
    Each(Vec<PathBuf>),
}

impl Output {
    /// What `path` asks for: `a.png`, `a-%d.png`, `a-%03d.png` or `a-{}.png` with the number of the
    /// picture, or a folder, in which files are named by their seeds.
    pub(crate) fn new(path: &Path, batch_count: usize, seed: u64) -> anyhow::Result<Self> {
        let ends_open = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if path.is_dir() || ends_open {
            let name = |i: usize| path.join(format!("{}.png", seed.wrapping_add(i as u64)));
            return Ok(Self::Each((0..batch_count).map(name).collect()));
        }
        let is_png = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
        ensure!(
            is_png,
            "--output: expected a name that ends in .png, or a folder (with / at its end), got {}",
            path.display()
        );
        Ok(match Pattern::find(path) {
            Some(pattern) => Self::Each((0..batch_count).map(|i| pattern.with(i)).collect()),
            None => Self::One(path.to_owned()),
        })
    }

    pub(crate) fn files(&self) -> &[PathBuf] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Each(paths) => paths,
        }
    }

    /// Makes the folder that was asked for, and finds what could not be written. `others` are files
    /// that will be written too.
    pub(crate) fn check(
        &self,
        asked: &Path,
        others: &[(&str, Option<PathBuf>)],
    ) -> anyhow::Result<()> {
        if asked.as_os_str().as_encoded_bytes().ends_with(b"/") {
            std::fs::create_dir_all(asked)
                .with_context(|| format!("--output {}", asked.display()))?;
        }
        let mut names = HashSet::new();
        let files = self.files().iter().map(|path| ("--output", path.as_path()));
        let others = others.iter().filter_map(|(flag, path)| Some((*flag, path.as_deref()?)));
        for (flag, path) in files.chain(others) {
            ensure!(
                names.insert(path),
                "{flag}: expected a file of its own, got {} twice",
                path.display()
            );
            output::check(path).with_context(|| flag.to_owned())?;
        }
        Ok(())
    }

    /// Writes the pictures of a batch; with their settings unless told otherwise.
    pub(crate) fn write(
        &self,
        pictures: &[Picture],
        settings: Option<&Settings>,
    ) -> pathline::Result<()> {
        let texts = |settings: Option<Settings>| {
            settings.map_or_else(|| Ok(Vec::new()), |settings| parameters::texts(&settings))
        };
        match self {
            Self::One(path) => {
                let all = grid::grid(pictures, grid::columns(pictures.len()))?;
                png::write(path, &all, &texts(settings.cloned())?)
            }
            Self::Each(paths) => {
                for (i, (path, picture)) in paths.iter().zip(pictures).enumerate() {
                    png::write(path, picture, &texts(settings.map(|s| s.of_picture(i)))?)?;
                }
                Ok(())
            }
        }
    }
}

/// A file name with a place for a number.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    folder: PathBuf,
    before: String,
    after: String,
    width: usize,
}

impl Pattern {
    /// `%d`, `%04d` or `{}` in the last component; none if there is none.
    pub(crate) fn find(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let found = |at: usize, len: usize, width: usize| Self {
            folder: path.parent().map(Path::to_owned).unwrap_or_default(),
            before: name[..at].to_owned(),
            after: name[at + len..].to_owned(),
            width,
        };
        if let Some(at) = name.find("{}") {
            return Some(found(at, 2, 0));
        }
        name.match_indices('%').find_map(|(at, _)| {
            let digits: String = name[at + 1..].chars().take_while(char::is_ascii_digit).collect();
            let is_number = name[at + 1 + digits.len()..].starts_with('d') && digits.len() <= 2;
            let width = digits.parse().unwrap_or(0);
            is_number.then(|| found(at, digits.len() + 2, width))
        })
    }

    pub(crate) fn with(&self, number: usize) -> PathBuf {
        let Self { folder, before, after, width } = self;
        folder.join(format!("{before}{number:0width$}{after}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str, count: usize, seed: u64) -> Vec<String> {
        let output = Output::new(Path::new(path), count, seed).unwrap();
        output.files().iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_name_is_one_file_or_many() {
        assert_eq!(names("a.png", 3, 7), ["a.png"]);
        assert_eq!(names("d/a-%d.PNG", 3, 7), ["d/a-0.PNG", "d/a-1.PNG", "d/a-2.PNG"]);
        assert_eq!(names("%03d.png", 2, 7), ["000.png", "001.png"]);
        assert_eq!(names("100%-{}.png", 1, 7), ["100%-0.png"]);
        assert_eq!(names("50%.png", 1, 7), ["50%.png"]);
        assert_eq!(names("new/", 2, u64::MAX), ["new/18446744073709551615.png", "new/0.png"]);
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("7.png").display().to_string();
        assert_eq!(names(dir.path().to_str().unwrap(), 1, 7), [name]);
        for wrong in ["a.jpg", "a", "png", ".png"] {
            let error = Output::new(Path::new(wrong), 1, 0).unwrap_err().to_string();
            assert!(error.contains("ends in .png"), "{wrong}: {error}");
        }
    }

    #[test]
    fn no_file_is_written_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let output = Output::new(&path, 1, 0).unwrap();
        output.check(&path, &[]).unwrap();
        let error =
            output.check(&path, &[("--preview", Some(path.clone()))]).unwrap_err().to_string();
        assert!(error.contains("--preview") && error.contains("twice"), "{error}");
        assert!(!path.exists());
    }
}
